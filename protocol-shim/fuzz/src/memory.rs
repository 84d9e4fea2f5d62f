//! A global allocator that counts, for claims of the kind "at most so many bytes".
//!
//! Counts what Rust code asks for, not what C libraries do (zstd): those are bounded by libFuzzer's limit on the
//! resident set. The targets run one input at a time on one thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// What a piece of code allocated, in bytes.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "some targets only print it")]
pub struct Used {
    /// Most held at one time, above what was held before.
    pub peak: usize,
    /// The largest single request.
    pub largest: usize,
}

/// Runs `work` and tells what it allocated.
pub fn measure<R>(work: impl FnOnce() -> R) -> (R, Used) {
    let before = CURRENT.load(Relaxed);
    PEAK.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    let result = work();
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    (
        result,
        Used {
            peak,
            largest: LARGEST.load(Relaxed),
        },
    )
}

fn grown(size: usize) {
    LARGEST.fetch_max(size, Relaxed);
    let current = CURRENT.fetch_add(size, Relaxed) + size;
    PEAK.fetch_max(current, Relaxed);
}

// SAFETY: every call is passed on unchanged; the counters hold no pointers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CURRENT.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The old and the new block may exist side by side while their content is copied.
        grown(new_size);
        CURRENT.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
