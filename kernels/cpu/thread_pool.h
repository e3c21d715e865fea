// The only threads of the CPU backend. oneDNN is always called on one thread of this pool at a time, so that
// no second runtime competes for the cores, and so that a primitive computes the same bits wherever it runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace cohort {

class ThreadPool {
 public:
  // `num_threads` counts the caller; 0 picks the number of available cores.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(argument, chunk, thread) for every chunk in [0, num_chunks), each exactly once, and returns
  // when all are done; chunks are claimed in order by whichever thread is free (thread in [0, num_threads)).
  // The first exception is rethrown here. A call from inside a task runs its chunks inline. One caller at a
  // time.
  using Task = void (*)(void* argument, std::int64_t chunk, int thread);
  void run(std::int64_t num_chunks, Task task, void* argument);

 private:
  struct Job;
  void work(int thread);
  void execute(Job& job, int thread);

  std::vector<std::thread> workers_;
  std::unique_ptr<Job> job_;
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace cohort
