"""The command line of bench/testbed."""
import argparse
import os
import shutil
import signal
import sys

from .cgroups import ControlGroups
from .common import TestbedError, say
from .relay import Port, relay
from . import slots
from .testbed import Testbed, clean
from .wire import Weather, wire

DEVICES_MAX = 64
EXIT_FAILED, EXIT_USAGE = 1, 2


def require_root():
    if os.geteuid() != 0:
        raise TestbedError("needs root: network namespaces and control groups are the administrator's; try sudo")


def require_tools(*names):
    for name in names:
        if not shutil.which(name):
            raise TestbedError(f"'{name}' is missing; on Debian 12 `tools/setup.sh --test` installs it")


def check():
    """Tries each thing that a testbed needs and says how it went."""
    groups = ControlGroups()
    print(f"root              {'yes' if os.geteuid() == 0 else 'no'}")
    for label, at in (("CPU quota", groups.cpu), ("memory limit", groups.memory)):
        print(f"{label:<16}  {f'control groups version {at[1]} at {at[0]}' if at else 'no control group'}")
    if os.geteuid() != 0:
        return EXIT_FAILED
    failed = 0
    options = parse_options(["run", "--devices", "1", "--cpu", "0.5", "--memory", "64MiB", "--link-mbps", "100",
                             "--latency-ms", "1", "--", "true"])
    testbed = Testbed(options)
    try:
        testbed.up()
        print("a whole device    yes")
        print(f"share of a core   {'time slots' if testbed.devices[0].core is not None else 'quota'}")
    except TestbedError as error:
        print(f"a whole device    no: {error}")
        failed = EXIT_FAILED
    finally:
        testbed.down()
    return failed


def parse_options(arguments, description=""):
    parser = argparse.ArgumentParser(prog="testbed", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True, metavar="run|exec|check|clean")
    actions.add_parser("check", help="what this machine permits")
    actions.add_parser("clean", help="remove what a killed testbed left behind")
    for name in ("run", "exec"):
        action = actions.add_parser(name)
        action.add_argument("--devices", type=int, default=3, metavar="N")
        action.add_argument("--cpu", default="0", help="cores a device may use, e.g. 0.5,0.25,0.25 (0: all)")
        action.add_argument("--cpu-by", default="auto", choices=["auto", "slots", "quota"],
                            help="how a share of a core is made (auto: slots where they fit)")
        action.add_argument("--link-mbps", default="0", help="each device's link, Mbit/s both ways (0: not shaped)")
        action.add_argument("--latency-ms", default="0", help="one-way delay of each device's link")
        action.add_argument("--memory", default="", help="memory of each device, e.g. 256MiB (none: not limited)")
        action.add_argument("--threads", default="1", help="threads of each device, for the cluster file")
        action.add_argument("--model", help="model, for the cluster file")
        action.add_argument("--context", type=int, default=2048)
        action.add_argument("--sequences", type=int, default=4)
        action.add_argument("--objective", default="latency", choices=["latency", "throughput"])
        action.add_argument("--keep-on-head", choices=["first-layer", "ends", "none"])
        action.add_argument("--layers", help="manual plan, e.g. d0=0-9,d1=10-29")
        action.add_argument("--timeout-s", type=float, default=0, help="end the command after so long (0: never)")
        action.add_argument("--quiet", action="store_true", help="no report of the devices at the end")
        action.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    options = parser.parse_args(arguments)
    if options.action in ("run", "exec"):
        check_options(options)
    return options


def check_options(options):
    if not 1 <= options.devices <= DEVICES_MAX:
        raise TestbedError(f"--devices takes 1 to {DEVICES_MAX}")
    if options.command[:1] == ["--"]:
        options.command = options.command[1:]
    if not options.command:
        raise TestbedError("no command; it comes after `--`")
    for key, convert in (("cpu", float), ("link_mbps", float), ("latency_ms", float), ("threads", int), ("memory", str)):
        flag = "--" + key.replace("_", "-")
        try:
            values = [convert(word) for word in getattr(options, key).split(",")]
        except ValueError:
            raise TestbedError(f"{flag}: '{getattr(options, key)}' is no list of numbers")
        if len(values) not in (1, options.devices):
            raise TestbedError(f"{flag}: {len(values)} values for {options.devices} devices")
        if convert is not str and min(values) < 0:
            raise TestbedError(f"{flag}: a value below zero")
        setattr(options, key, values * (options.devices // len(values)))
    if max(options.cpu) > 1 and options.cpu_by == "slots":
        raise TestbedError("--cpu-by slots: a device has at most one core")
    if sum(options.cpu) > 1:
        say(f"the quotas add up to {sum(options.cpu):g} cores: figures above one core share a memory bus")


def interrupt(*_):
    raise KeyboardInterrupt


def own_part(arguments):
    """What the testbed starts beside itself."""
    if arguments[0] == "relay":
        ports = [argument.rsplit("=", 2) for argument in arguments[1:]]
        relay([Port(name, float(delay), float(rate)) for name, delay, rate in ports])
    if arguments[0] == "wire":
        wire(arguments[1], arguments[2], Weather(*map(float, arguments[4:])), arguments[3])
    shares = [argument.rsplit("=", 1) for argument in arguments[3:]]
    slots.run(int(arguments[1]), float(arguments[2]), [slots.Share(tasks, float(share)) for tasks, share in shares])


def act(description):
    if sys.argv[1:2] in (["relay"], ["slots"], ["wire"]):
        return own_part(sys.argv[1:])
    options = parse_options(sys.argv[1:], description)
    if options.action == "check":
        return check()
    require_root()
    require_tools("ip", "nsenter", "unshare", "taskset", "mpirun")
    if options.action == "clean":
        return clean()
    # Python leaves SIGINT alone where the parent ignored it, as a script's background jobs have it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    testbed = Testbed(options)
    try:
        testbed.up()
        code = testbed.run(list(options.command), options.action == "run")
        if not options.quiet:
            testbed.report()
        return code
    finally:
        # Nothing may interrupt the removal.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        testbed.down()


def main(description):
    try:
        return act(description)
    except TestbedError as error:
        say(str(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
