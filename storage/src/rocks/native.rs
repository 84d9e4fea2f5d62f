//! Walks the keys of the `log` database without reading the values in blob files: tells where they lie. And sets how fast
//! RocksDB writes in the background. The Rust side of `native.cc`, and the only file with unsafe code. Used by `rocks.rs`
//! alone; it reads no value and writes nothing.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

use rocksdb::{AsRawPtr, DB};

use crate::engine::Patience;

/// A value as the tree of keys holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// Where it lies: bytes `offset..offset + size` of the blob file `file`, behind its record's header and its key.
    Blob { file: u64, offset: u64, size: u64 },
}

/// `OttlaPlace` of `native.cc`.
#[repr(C)]
struct RawPlace {
    key: *const c_char,
    key_bytes: usize,
    value: *const c_char,
    value_bytes: usize,
    is_blob: bool,
    file: u64,
    offset: u64,
    size: u64,
}

unsafe extern "C" {
    fn ottla_places_new(
        db: *mut c_void,
        lower: *const c_char,
        lower_bytes: usize,
        upper: *const c_char,
        upper_bytes: usize,
        waits: bool,
    ) -> *mut c_void;
    fn ottla_places_free(places: *mut c_void);
    fn ottla_places_seek(places: *mut c_void, key: *const c_char, bytes: usize);
    fn ottla_places_seek_for_prev(places: *mut c_void, key: *const c_char, bytes: usize);
    fn ottla_places_next(places: *mut c_void);
    fn ottla_places_get(places: *mut c_void, place: *mut RawPlace) -> bool;
    fn ottla_places_waits(places: *mut c_void) -> bool;
    fn ottla_places_error(places: *mut c_void) -> *mut c_char;
    fn ottla_places_error_free(text: *mut c_char);
    fn ottla_set_background_rate(db: *mut c_void, bytes_per_second: i64);
    fn ottla_background_rate(db: *mut c_void) -> i64;
}

/// An iterator over the keys from `lower` to before `upper` as they are when it is made. As long as it lives, so do all
/// files that it tells of.
pub(super) struct Places<'db> {
    handle: NonNull<c_void>,
    db: PhantomData<&'db DB>,
}

impl<'db> Places<'db> {
    /// Where it does not wait for the disk it ends at keys that are not in memory, which `waits` tells.
    pub(super) fn new(db: &'db DB, lower: &[u8], upper: &[u8], patience: Patience) -> Self {
        // SAFETY: the database outlives the iterator by its lifetime, and the bounds are copied.
        let handle = unsafe {
            ottla_places_new(
                db.as_raw_ptr().cast(),
                lower.as_ptr().cast(),
                lower.len(),
                upper.as_ptr().cast(),
                upper.len(),
                patience == Patience::Disk,
            )
        };
        Self {
            handle: NonNull::new(handle).expect("C++'s new gives no null"),
            db: PhantomData,
        }
    }

    /// Moves to the first key that is equal or greater.
    pub(super) fn seek(&mut self, key: &[u8]) {
        // SAFETY: the handle is alive, and nothing borrows from it while it is moved.
        unsafe { ottla_places_seek(self.handle.as_ptr(), key.as_ptr().cast(), key.len()) }
    }

    /// Moves to the last key that is equal or less.
    pub(super) fn seek_for_prev(&mut self, key: &[u8]) {
        // SAFETY: as in `seek`.
        unsafe {
            ottla_places_seek_for_prev(self.handle.as_ptr(), key.as_ptr().cast(), key.len());
        }
    }

    /// Moves on by one key; only where there was one.
    pub(super) fn next(&mut self) {
        // SAFETY: as in `seek`.
        unsafe { ottla_places_next(self.handle.as_ptr()) }
    }

    /// The key and its value; `None` at the end, after an error, and where it would wait: `error` and `waits` tell them apart.
    pub(super) fn get(&self) -> Option<(&[u8], Value<'_>)> {
        let mut place = RawPlace {
            key: std::ptr::null(),
            key_bytes: 0,
            value: std::ptr::null(),
            value_bytes: 0,
            is_blob: false,
            file: 0,
            offset: 0,
            size: 0,
        };
        // SAFETY: the handle is alive; `place` is written if there is a key.
        if !unsafe { ottla_places_get(self.handle.as_ptr(), &raw mut place) } {
            return None;
        }
        // SAFETY: RocksDB's slices are valid until the iterator is moved or freed, which the borrow of `self` forbids.
        let (key, value) = unsafe {
            (
                slice(place.key, place.key_bytes),
                slice(place.value, place.value_bytes),
            )
        };
        let value = if place.is_blob {
            Value::Blob {
                file: place.file,
                offset: place.offset,
                size: place.size,
            }
        } else {
            Value::Inline(value)
        };
        Some((key, value))
    }

    /// Whether it ended where it would have had to wait for the disk.
    pub(super) fn waits(&self) -> bool {
        // SAFETY: the handle is alive.
        unsafe { ottla_places_waits(self.handle.as_ptr()) }
    }

    /// RocksDB's words for what went wrong, if anything did.
    pub(super) fn error(&self) -> Option<String> {
        // SAFETY: the handle is alive; the text is ours until it is given back.
        unsafe {
            let text = ottla_places_error(self.handle.as_ptr());
            if text.is_null() {
                return None;
            }
            let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
            ottla_places_error_free(text);
            Some(copy)
        }
    }
}

/// How fast flushes and compactions of `db` may write from now on, if it was opened with a rate limiter.
pub(super) fn set_background_rate(db: &DB, bytes_per_second: i64) {
    // SAFETY: the database is open.
    unsafe { ottla_set_background_rate(db.as_raw_ptr().cast(), bytes_per_second) }
}

/// How fast they may write now, in bytes a second; 0 without a rate limiter.
pub(super) fn background_rate(db: &DB) -> u64 {
    // SAFETY: the database is open.
    let rate = unsafe { ottla_background_rate(db.as_raw_ptr().cast()) };
    u64::try_from(rate).unwrap_or(0)
}

/// # Safety
/// `start` points at so many bytes that stay as they are for `'a`, or there are none.
unsafe fn slice<'a>(start: *const c_char, bytes: usize) -> &'a [u8] {
    if bytes == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(start.cast(), bytes) }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        // SAFETY: freed once, here.
        unsafe { ottla_places_free(self.handle.as_ptr()) }
    }
}
