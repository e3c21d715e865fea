#include "simt/runtime/graph_nodes.h"

#include "simt/runtime/state.h"

namespace simt {

std::vector<GraphNode> graph_nodes(cudaGraphExec_t exec) {
  std::vector<GraphNode> nodes;
  for (const auto& node : exec->graph.nodes) nodes.push_back({node->work.name, node->dependencies});
  return nodes;
}

}  // namespace simt
