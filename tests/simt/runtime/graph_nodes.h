// The nodes of a captured graph and what each waits for.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

namespace simt {

struct GraphNode {
  std::string name;               // of a kernel, as kernel_names() gives it
  std::vector<int> dependencies;  // earlier nodes, by their place in the list
};

// In the order of their capture.
std::vector<GraphNode> graph_nodes(cudaGraphExec_t exec);

}  // namespace simt
