// graph_compute of the decorator. Packed recipe: the cache's nodes become GGML_OP_CUSTOM nodes in a copy of the
// node list, so that ggml-cpu runs the whole graph in one go with its own threads. Recording and simulated
// recipes go in slices that end at the cache's nodes.
#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "gtq/error.h"
#include "plugin/device.h"
#include "plugin/model_match.h"
#include "plugin/ops.h"
#include "plugin/positions.h"
#include "plugin/recorder.h"
#include "plugin/self_calibration.h"
#include "plugin/settings.h"
#include "plugin/simulate.h"

namespace gtq::plugin {
namespace {

struct Context {
  ggml_backend_t cpu = nullptr;
  int n_threads = 4;
  SpinBarrier barrier;
  std::unique_ptr<std::byte[]> workspace;
  std::size_t workspace_bytes = 0;
  std::vector<ggml_tensor> custom;
  std::vector<ggml_tensor*> nodes;
  std::vector<std::pair<Context*, const ggml_tensor*>> tasks;
  bool model_checked = false;
  SelfCalibration calibration;  // used without GTQ_PROFILE

  void* aligned_workspace() const {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(workspace.get()) + 63) &
                                   ~std::uintptr_t{63});
  }
};

Context& context_of(ggml_backend_t backend) { return *static_cast<Context*>(backend->context); }

bool packed_node(const ggml_tensor* node) {
  return (is_cache_store(node) && packed_cache(node) != nullptr) ||
         (is_cache_attention(node) && packed_cache(node->src[1]) != nullptr) ||
         (is_key_shift(node) && packed_cache(node) != nullptr);
}

bool is_cache_node(const ggml_tensor* node) { return is_cache_store(node) || is_cache_attention(node); }

void run_custom(ggml_tensor*, int thread, int n_threads, void* userdata) {
  const auto& [context, node] = *static_cast<const std::pair<Context*, const ggml_tensor*>*>(userdata);
  if (node->op == GGML_OP_SET_ROWS) {
    store_rows(node, context->barrier, thread, n_threads);
  } else if (node->op == GGML_OP_ROPE) {
    shift_keys(node, context->barrier, thread, n_threads);
  } else {
    run_attention(node, context->aligned_workspace(), context->barrier, thread, n_threads);
  }
}

ggml_status compute_packed(Context& context, ggml_cgraph* graph) {
  note_positions(graph->nodes, graph->n_nodes);
  std::size_t bytes = 0, n_tasks = 0;
  for (int i = 0; i < graph->n_nodes; ++i) {
    if (!packed_node(graph->nodes[i])) continue;
    ++n_tasks;
    if (is_cache_attention(graph->nodes[i])) {
      bytes = std::max(bytes, attention_workspace(graph->nodes[i], context.n_threads));
    }
  }
  if (bytes > context.workspace_bytes) {
    context.workspace.reset(new std::byte[bytes + 64]);
    context.workspace_bytes = bytes;
  }
  context.custom.resize(n_tasks);
  context.tasks.resize(n_tasks);
  context.nodes.assign(graph->nodes, graph->nodes + graph->n_nodes);
  std::size_t task = 0;
  for (ggml_tensor*& node : context.nodes) {
    if (!packed_node(node)) continue;
    context.tasks[task] = {&context, node};
    ggml_tensor& custom = context.custom[task];
    custom = *node;
    custom.op = GGML_OP_CUSTOM;
    std::memset(custom.op_params, 0, sizeof custom.op_params);
    const ggml_custom_op_params params = {run_custom, GGML_N_TASKS_MAX, &context.tasks[task]};
    std::memcpy(custom.op_params, &params, sizeof params);
    node = &custom;
    ++task;
  }
  ggml_cgraph copy = *graph;
  copy.nodes = context.nodes.data();
  copy.uid = 0;
  const ggml_status status = ggml_backend_graph_compute(context.cpu, &copy);
  finish_shift(graph->nodes, graph->n_nodes);
  return status;
}

enum class Visit { kBefore, kAfter };

// Runs the graph in slices that end at the nodes which `stops` picks; `visit` sees each of them before or after
// it is computed.
template <typename Stops, typename Visitor>
ggml_status compute_slices(Context& context, ggml_cgraph* graph, Visit when, Stops stops, Visitor visit) {
  int begin = 0;
  const auto compute_to = [&](int end) {
    if (begin >= end) return GGML_STATUS_SUCCESS;
    ggml_cgraph slice = ggml_graph_view(graph, begin, end);
    begin = end;
    return ggml_backend_graph_compute(context.cpu, &slice);
  };
  for (int i = 0; i < graph->n_nodes; ++i) {
    if (!stops(graph->nodes[i])) continue;
    const ggml_status status = compute_to(when == Visit::kBefore ? i : i + 1);
    if (status != GGML_STATUS_SUCCESS) return status;
    visit(graph->nodes[i]);
  }
  return compute_to(graph->n_nodes);
}

// The first graph that attends a cache of ours must come from the model that the profile was made for. Of a
// batch that comes in pieces this cannot be known.
void check_model(Context& context, const ggml_cgraph* graph) {
  const auto end = graph->nodes + graph->n_nodes;
  const Packing* packing = settings().packing.get();
  const auto attends = [&](const ggml_tensor* node) {
    return is_cache_attention(node) && (packing == nullptr || packed_cache(node->src[1]) != nullptr);
  };
  if (context.model_checked || std::none_of(graph->nodes, end, attends)) return;
  const std::set<Cache*> caches = caches_of(graph->nodes, graph->n_nodes);
  if (stores(graph->nodes, graph->n_nodes, caches) != Stores::kAll) return;
  const std::uint64_t fingerprint = graph_fingerprint(graph->nodes, graph->n_nodes);
  if (settings().recipe == Recipe::kRecord) {
    record_fingerprint(fingerprint);
    context.model_checked = true;
    return;
  }
  const Profile& profile = packing != nullptr ? packing->profile() : settings().profile;
  if (fingerprint != profile.fingerprint) {
    throw Error("the profile in GTQ_PROFILE was made for another model (\"" + profile.model_name +
                "\"); make one for this model with `gtq calibrate -m MODEL`");
  }
  if (!rotates_alike(profile, graph->nodes, graph->n_nodes)) {
    throw Error(
        "this run rotates keys differently than the profile in GTQ_PROFILE; leave out --rope-freq-base, "
        "--rope-freq-scale, --rope-scale, --rope-scaling and --yarn-ext-factor, or run without gtq");
  }
  context.model_checked = true;
}

ggml_status compute_without_profile(Context& context, ggml_cgraph* graph) {
  SelfCalibration& calibration = context.calibration;
  if (!calibration.prepare(graph->nodes, graph->n_nodes)) return compute_packed(context, graph);
  note_positions(graph->nodes, graph->n_nodes);
  const ggml_status status =
      compute_slices(context, graph, Visit::kAfter, is_cache_node,
                     [&](const ggml_tensor* node) { calibration.recorder().record(node); });
  finish_shift(graph->nodes, graph->n_nodes);
  if (status == GGML_STATUS_SUCCESS) calibration.count(graph->nodes, graph->n_nodes);
  return status;
}

ggml_status graph_compute(ggml_backend_t backend, ggml_cgraph* graph) {
  Context& context = context_of(backend);
  try {
    const bool needs_profile = settings().recipe != Recipe::kGtq || settings().packing != nullptr;
    if (settings().recipe != Recipe::kF16 && needs_profile) check_model(context, graph);
    switch (settings().recipe) {
      case Recipe::kF16:
        return ggml_backend_graph_compute(context.cpu, graph);
      case Recipe::kRecord:
        return compute_slices(context, graph, Visit::kAfter, is_cache_node, record_node);
      case Recipe::kBlockGtq:
      case Recipe::kTqMse:
        return compute_slices(context, graph, Visit::kBefore, is_cache_store, simulate_rows);
      case Recipe::kGtq:
        break;
    }
    return needs_profile ? compute_packed(context, graph) : compute_without_profile(context, graph);
  } catch (const std::bad_alloc&) {
    say_once("no memory left for the attention workspace; use a smaller -ub or -c");
    return GGML_STATUS_ALLOC_FAILED;
  } catch (const std::exception& e) {
    say_once(e.what());
    return GGML_STATUS_FAILED;
  }
}

const char* name(ggml_backend_t) { return "GTQ0"; }

void free_backend(ggml_backend_t backend) {
  ggml_backend_free(context_of(backend).cpu);
  delete &context_of(backend);
  delete backend;
}

ggml_backend_i backend_interface() {
  ggml_backend_i i = {};  // members not set: asynchronous access, plans and events, which a CPU has no use for
  i.get_name = name;
  i.free = free_backend;
  i.graph_compute = graph_compute;
  return i;
}

}  // namespace

ggml_backend_t new_backend() {
  static ggml_guid guid = {'g', 't', 'q', '-', 'k', 'v', '-', 'c', 'a', 'c', 'h', 'e', 0, 0, 0, 1};
  auto* context = new Context;
  context->cpu = ggml_backend_dev_init(cpu_device(), nullptr);
  return new ggml_backend{&guid, backend_interface(), device(), context};
}

void set_backend_threads(ggml_backend_t backend, int n_threads) {
  Context& context = context_of(backend);
  context.n_threads = n_threads;
  ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(cpu_device());
  auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
  if (set != nullptr) set(context.cpu, n_threads);
}

}  // namespace gtq::plugin
