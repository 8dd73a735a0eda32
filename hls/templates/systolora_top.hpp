// The top function.

#ifndef SYSTOLORA_TOP_HPP
#define SYSTOLORA_TOP_HPP

#include "types.hpp"

{{ signature }};

#endif
