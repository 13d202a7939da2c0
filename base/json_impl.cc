// Boost.JSON is used without its library: its definitions are compiled here, once for the whole program.
#include <boost/json/src.hpp>
