# shoal_library(NAME [DEPS target...]): the static library shoal_NAME from every *.cc of the current folder.
# shoal_test(NAME SOURCES file... [DEPS target...] [UNITY]): one doctest program, registered with ctest as NAME; UNITY: its
# files may be compiled together, since no two have helpers of one name.

add_library(shoal_flags INTERFACE)
# Sanitizers confuse g++ 12's flow analysis (false -Wmaybe-uninitialized), so warnings are errors only without them.
set(shoal_werror "")
if(SHOAL_WERROR AND NOT SHOAL_SANITIZE)
  set(shoal_werror -Werror)
endif()
# -Wno-restrict: g++ 12 warns wrongly of "text" + string (GCC bug 105651).
target_compile_options(shoal_flags INTERFACE -Wall -Wextra -Wno-restrict -ffp-contract=off ${shoal_werror})
if(CMAKE_UNITY_BUILD)
  # Files that are included in another look like headers to this warning, which is about headers.
  target_compile_options(shoal_flags INTERFACE -Wno-subobject-linkage)
endif()
target_include_directories(shoal_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/gen)
if(SHOAL_SANITIZE)
  target_compile_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE})
endif()

# What waits for sockets more than it computes: unoptimised where it is sanitized, which compiles in half the time.
function(shoal_unhurried target)
  if(SHOAL_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  endif()
endfunction()

function(shoal_library name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  add_library(shoal_${name} STATIC ${sources})
  target_link_libraries(shoal_${name} PUBLIC shoal_flags ${ARG_DEPS})
endfunction()

function(shoal_test name)
  cmake_parse_arguments(ARG "UNITY" "" "SOURCES;DEPS" ${ARGN})
  add_executable(test_${name} ${CMAKE_SOURCE_DIR}/tests/doctest_main.cc ${ARG_SOURCES})
  target_link_libraries(test_${name} PRIVATE shoal_flags doctest::doctest ${ARG_DEPS})
  if(NOT ARG_UNITY)
    set_target_properties(test_${name} PROPERTIES UNITY_BUILD OFF)
  endif()
  add_test(NAME ${name} COMMAND test_${name} --test-suite-exclude=model-file)
endfunction()
