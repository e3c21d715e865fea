#include "kernels/cpu/thread_pool.h"

#include <omp.h>

#include <exception>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <sched.h>

namespace cohort {
namespace {

// The pool index of the thread that executes a chunk, -1 outside: nested parallel loops run inline, under
// that index.
thread_local int current_thread = -1;

// A step has hundreds of short loops back to back: a worker that sleeps at once would be woken for each of
// them (about 50 us). It spins about as long as a short serial section first, then sleeps, so that an idle
// engine costs nothing and a busy machine gets its core back.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1 : static_cast<int>(n);
}

}  // namespace

struct ThreadPool::Job {
  Task task = nullptr;
  void* argument = nullptr;
  std::int64_t num_chunks = 0;
  std::atomic<std::int64_t> next{0};
  std::atomic<int> active{0};  // workers that have not yet left this job
  std::mutex mutex;
  std::exception_ptr error;
};

ThreadPool::ThreadPool(int num_threads) : job_(std::make_unique<Job>()) {
  omp_set_num_threads(1);  // oneDNN runs single-threaded on each of our threads
  const int n = num_threads > 0 ? num_threads : available_cores();
  for (int thread = 1; thread < n; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::execute(Job& job, int thread) {
  current_thread = thread;
  for (;;) {
    const std::int64_t chunk = job.next.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= job.num_chunks) break;
    try {
      job.task(job.argument, chunk, thread);
    } catch (...) {
      const std::lock_guard lock(job.mutex);
      if (!job.error) job.error = std::current_exception();
    }
  }
  current_thread = -1;
}

void ThreadPool::work(int thread) {
  omp_set_num_threads(1);
  std::uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) relax();
    generation_.wait(seen, std::memory_order_acquire);
    const std::uint32_t now = generation_.load(std::memory_order_acquire);
    if (now == seen) continue;
    seen = now;
    if (stop_.load(std::memory_order_relaxed)) return;
    execute(*job_, thread);
    if (job_->active.fetch_sub(1, std::memory_order_acq_rel) == 1) job_->active.notify_one();
  }
}

void ThreadPool::run(std::int64_t num_chunks, Task task, void* argument) {
  if (num_chunks <= 0) return;
  if (current_thread >= 0 || workers_.empty() || num_chunks == 1) {
    const int thread = current_thread >= 0 ? current_thread : 0;
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) task(argument, chunk, thread);
    return;
  }
  Job& job = *job_;
  job.task = task;
  job.argument = argument;
  job.num_chunks = num_chunks;
  job.error = nullptr;
  job.next.store(0, std::memory_order_relaxed);
  job.active.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  execute(job, 0);
  // Every worker must have left the job before it may be reused, also those that found no chunk.
  int active = job.active.load(std::memory_order_acquire);
  for (int spin = 0; active != 0; ++spin) {
    if (spin < kSpins) {
      relax();
    } else {
      job.active.wait(active, std::memory_order_acquire);
    }
    active = job.active.load(std::memory_order_acquire);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace cohort
