// The one exception type of the library. what() is one sentence for the user: what is wrong and what to do.
#pragma once

#include <stdexcept>

namespace gtq {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gtq
