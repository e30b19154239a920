// Preloaded, it makes llama.cpp claim another ggml version.
extern "C" const char* ggml_version() { return "0.0.1"; }
