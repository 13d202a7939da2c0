// What a Host header names (RFC 9110, 7.2; RFC 3986, 3.2). A pure function but for this device's own name.
#pragma once

#include <string_view>

namespace shoal {

// Whether it is an address, this device's host name or localhost, with or without a port. A page from
// elsewhere can make a browser call this device under a name of the page's own (DNS rebinding); it cannot
// choose the Host header, which has that name and no address. False for what is no host and port at all.
bool names_this_device(std::string_view host);

}  // namespace shoal
