#include "plugin/device.h"

#include <algorithm>
#include <cstring>

#include "gtq/error.h"
#include "plugin/cache.h"
#include "plugin/recorder.h"
#include "plugin/recorder_api.h"
#include "plugin/settings.h"

namespace gtq::plugin {
namespace {

const char* device_name(ggml_backend_dev_t) { return "GTQ0"; }
const char* device_description(ggml_backend_dev_t) { return "packed KV cache (gtq) on the CPU"; }
void device_memory(ggml_backend_dev_t, std::size_t* free, std::size_t* total) {
  ggml_backend_dev_memory(cpu_device(), free, total);
}
// A GPU, since only those get layers and so their KV cache.
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

void device_props(ggml_backend_dev_t dev, ggml_backend_dev_props* props) {
  std::memset(props, 0, sizeof *props);
  props->name = device_name(dev);
  props->description = device_description(dev);
  props->type = device_type(dev);
  device_memory(dev, &props->memory_free, &props->memory_total);
  props->caps.mmap_support = true;
}

ggml_backend_t init_backend(ggml_backend_dev_t, const char*) { return new_backend(); }
ggml_backend_buffer_type_t get_buffer_type(ggml_backend_dev_t) { return buffer_type(); }

bool in_our_type(const ggml_tensor* t) {
  return t != nullptr && root(t)->buffer != nullptr && root(t)->buffer->buft == buffer_type();
}

// False while llama.cpp only estimates memory: then tensors have a buffer of no size.
bool is_allocated(const ggml_tensor* t) { return root(t)->data != nullptr; }

bool supports_cache_op(const ggml_tensor* op) {
  switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    case GGML_OP_ROPE:
      return true;
    case GGML_OP_SET_ROWS:
      return op->src[0]->type == GGML_TYPE_F32 && op->src[0]->ne[0] == root(op)->ne[0];
    case GGML_OP_FLASH_ATTN_EXT:
      // An estimate for a cache of which one half cannot be packed: neither will be.
      if (!packable(root(op->src[1]), settings().packing.get()) ||
          !packable(root(op->src[2]), settings().packing.get())) {
        return true;
      }
      return op->op_params[4] == 0;
    default:
      return false;
  }
}

// llama.cpp asks with tensors in an empty buffer of our type when it plans memory and when it places weights.
bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) {
  bool cache = false, other = false;
  for (int i = -1; i < GGML_MAX_SRC; ++i) {
    const ggml_tensor* t = i < 0 ? op : op->src[i];
    if (!in_our_type(t)) continue;
    if (packable(root(t), settings().packing.get())) {
      cache = true;
    } else if (std::strncmp(root(t)->name, "cache_", 6) != 0) {
      other = true;  // a weight: it belongs in the CPU's own buffer types
    }
  }
  if (other) return false;
  if (!cache) {
    if (op->op == GGML_OP_SET_ROWS && settings().recipe == Recipe::kGtq && cache_name(root(op)) &&
        is_allocated(op)) {
      say_not_packed("the cache is in llama.cpp's own memory and not packed; drop -nkvo and -ngl to use gtq");
    }
    return ggml_backend_dev_supports_op(cpu_device(), op);
  }
  if (supports_cache_op(op)) return true;
  const bool allocated = std::any_of(op->src, op->src + GGML_MAX_SRC,
                                     [](const ggml_tensor* t) { return in_our_type(t) && is_allocated(t); });
  // Without a profile, tensors of a cache that cannot be packed are recognised when they are allocated.
  if (!allocated && settings().packing == nullptr) return ggml_backend_dev_supports_op(cpu_device(), op);
  const char* text = "the packed cache needs flash attention; drop -fa off and -ngl";
  if (allocated) say_once(text);
  throw Error(text);
}

bool supports_buft(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
  return type == buffer_type() || ggml_backend_dev_supports_buft(cpu_device(), type);
}

const ggml_backend_device_i kDeviceInterface = {device_name,
                                                device_description,
                                                device_memory,
                                                device_type,
                                                device_props,
                                                init_backend,
                                                get_buffer_type,
                                                /*get_host_buffer_type*/ nullptr,
                                                /*buffer_from_host_ptr*/ nullptr,
                                                supports_op,
                                                supports_buft,
                                                /*offload_op*/ nullptr,
                                                /*event_new*/ nullptr,
                                                /*event_free*/ nullptr,
                                                /*event_synchronize*/ nullptr};

const char* registry_name(ggml_backend_reg_t) { return "GTQ"; }
std::size_t device_count(ggml_backend_reg_t) {
  if (!settings().active) return 0;
  if (cpu_device() != nullptr) return 1;
  say_once("this program has not loaded llama.cpp's CPU backend, which gtq needs; gtq is not active");
  return 0;
}
ggml_backend_dev_t get_device(ggml_backend_reg_t, std::size_t) { return device(); }

void* proc_address(ggml_backend_reg_t, const char* name) {
  if (std::strcmp(name, "ggml_backend_set_n_threads") == 0) return reinterpret_cast<void*>(set_backend_threads);
  if (std::strcmp(name, kRecorderTokens) == 0) return reinterpret_cast<void*>(recorder_tokens);
  if (std::strcmp(name, kRecorderListen) == 0) return reinterpret_cast<void*>(recorder_listen);
  if (std::strcmp(name, kRecorderFinish) == 0) return reinterpret_cast<void*>(recorder_finish);
  return nullptr;
}

}  // namespace

ggml_backend_dev_t cpu_device() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }
ggml_backend_buffer_type_t cpu_buffer_type() { return ggml_backend_dev_buffer_type(cpu_device()); }

ggml_backend_dev_t device() {
  static ggml_backend_device instance = {kDeviceInterface, registry(), nullptr};
  return &instance;
}

ggml_backend_reg_t registry() {
  static ggml_backend_reg instance = {
      GGML_BACKEND_API_VERSION, {registry_name, device_count, get_device, proc_address}, nullptr};
  return &instance;
}

}  // namespace gtq::plugin

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
  return gtq::plugin::registry();
}
