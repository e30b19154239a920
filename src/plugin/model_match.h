// Whether a profile belongs to the model of a graph: the weights' graph_fingerprint() (recorder.h) says which
// model it is, this whether it runs as it was calibrated.
#pragma once

#include "ggml.h"
#include "gtq/profile.h"

namespace gtq::plugin {

// Every layer of the profile whose keys this graph stores rotates them as the profile says.
bool rotates_alike(const Profile& profile, ggml_tensor** nodes, int n_nodes);

}  // namespace gtq::plugin
