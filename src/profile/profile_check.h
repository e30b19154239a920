// What must hold for a profile whoever made it: calibration, a file or a caller.
#pragma once

#include <string>

#include "gtq/profile.h"

namespace gtq {

// Far above any model; they keep every index and product of sizes small.
inline constexpr int kProfileMaxHeads = 4096;
inline constexpr int kProfileMaxHeadDim = 1024;
inline constexpr int kProfileMaxLayer = 65535;

// Empty when the data is sound, else what is wrong, as a phrase for a message ("layer 3: head_dim_k is 20,
// ...").
std::string shape_problem(const LayerProfile& layer);  // counts and RoPE parameters only
std::string layer_problem(const LayerProfile& layer);  // those and every vector
std::string profile_problem(const Profile& profile);   // every layer and their order

}  // namespace gtq
