// Sums for calibration, and the identity of a model, from what passes through the graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml.h"
#include "gtq/calibration.h"
#include "plugin/recorder_api.h"

namespace gtq::plugin {

class Recorder {
 public:
  // Call after the node was computed: adds its rows to the sums, and shows them to the listener. What is wrong
  // with a row is said by finish().
  void record(const ggml_tensor* node);
  void set_fingerprint(std::uint64_t fingerprint) { fingerprint_ = fingerprint; }
  void listen(RecorderListener listener, void* user) {
    listener_ = listener;
    listener_user_ = user;
  }

  std::int64_t tokens() const;  // the least over the layers
  // Throws Error when rows could not be added up, or too few were seen.
  Profile finish(const std::string& model_name, const std::string& text_source) const;
  const std::string& problem() const { return problem_; }

 private:
  // A layer is known whole only at its attention node, after its first keys and values: they wait here.
  struct Stored {
    std::vector<float> keys, values;  // [token][n_kv_heads][head_dim]
    std::vector<std::int32_t> positions;
  };
  struct Layer {
    Stored stored;
    RopeParams rope;
    std::unique_ptr<LayerCalibrator> sums;
  };

  void record_store(const ggml_tensor* node);
  void record_attention(const ggml_tensor* node);

  std::map<int, Layer> layers_;
  RecorderListener listener_ = nullptr;
  void* listener_user_ = nullptr;
  std::uint64_t fingerprint_ = 0;
  std::string problem_;
};

// Hash of the small (one-dimensional, F32) weights of the graph: the same for every quantization of a model.
std::uint64_t graph_fingerprint(ggml_tensor** nodes, int n_nodes);

// The recorder of GTQ_RECIPE=record, whose functions go to program gtq (recorder_api.h).
void record_node(const ggml_tensor* node);
void record_fingerprint(std::uint64_t fingerprint);
void recorder_listen(RecorderListener listener, void* user);
std::int64_t recorder_tokens();
bool recorder_finish(const char* path, const char* model_name, const char* text_source, char* error,
                     std::size_t error_size);

}  // namespace gtq::plugin
