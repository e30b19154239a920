// Whether a profile belongs to the model of a graph: the weights' graph_fingerprint() (recorder.h) says which
// model it is, this whether it runs as it was calibrated, and whether the graph is whole, so that either can be
// known.
#pragma once

#include <set>

#include "ggml.h"
#include "gtq/profile.h"
#include "plugin/cache.h"

namespace gtq::plugin {

// Every layer of the profile whose keys this graph stores rotates them as the profile says.
bool rotates_alike(const Profile& profile, ggml_tensor** nodes, int n_nodes);

// The caches of ours that this graph stores or attends.
std::set<Cache*> caches_of(ggml_tensor** nodes, int n_nodes);

enum class Stores { kNothing, kPart, kAll };

// How much of the caches that it uses this graph stores. A program that looks at each tensor (cb_eval) computes
// a batch in pieces, by which no model can be known; a context that shares the cache of another one may store
// nothing.
Stores stores(ggml_tensor** nodes, int n_nodes, const std::set<Cache*>& caches);

}  // namespace gtq::plugin
