// What is needed of RocksDB and is not in its C interface: where a value lies in a blob file, for which its public iterators
// read each value instead, and how fast flushes and compactions may write. Used by native.rs alone; reads no value.
//
// It uses RocksDB's own headers, so that it is compiled against exactly the version that is linked (see build.rs); another
// version fails the build. Nothing throws across the border: an exception, which is memory that cannot be had, ends the process.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "db/arena_wrapped_db_iter.h"
#include "db/blob/blob_index.h"
#include "db/column_family.h"
#include "db/db_impl/db_impl.h"
#include "rocksdb/db.h"
#include "rocksdb/rate_limiter.h"
#include "rocksdb/version.h"

// What is used here is RocksDB's own business: look at it again with another version.
static_assert(ROCKSDB_MAJOR == 11 && ROCKSDB_MINOR == 8, "native.cc was written for RocksDB 11.8");

using namespace ROCKSDB_NAMESPACE;

// The first and only field of RocksDB's C handle (db/c.cc).
struct rocksdb_t {
  DB* rep;
};

namespace {

struct Places {
  std::string lower;
  std::string upper;
  Slice lower_slice;
  Slice upper_slice;
  Status problem;
  std::unique_ptr<ArenaWrappedDBIter> iterator;
};

}  // namespace

extern "C" {

// What the iterator stands at. The pointers live until it is moved.
struct OttlaPlace {
  const char* key;
  size_t key_bytes;
  // The value, if it is not in a blob file.
  const char* value;
  size_t value_bytes;
  bool is_blob;
  uint64_t file;
  uint64_t offset;
  uint64_t size;
};

// One that does not wait (`waits`) ends at blocks of keys that are not in RocksDB's cache, and deletes no files when it goes.
void* ottla_places_new(rocksdb_t* db, const char* lower, size_t lower_bytes, const char* upper, size_t upper_bytes,
                       bool waits) noexcept {
  auto* places = new Places{std::string(lower, lower_bytes), std::string(upper, upper_bytes), {}, {}, {}, {}};
  places->lower_slice = places->lower;
  places->upper_slice = places->upper;
  ReadOptions read;
  read.iterate_lower_bound = &places->lower_slice;
  read.iterate_upper_bound = &places->upper_slice;
  // One that waits leaves blocks of keys in the cache for those that do not.
  read.fill_cache = true;
  read.read_tier = waits ? kReadAllTier : kBlockCacheTier;
  read.background_purge_on_iterator_cleanup = !waits;
  read.verify_checksums = true;
  read.io_activity = Env::IOActivity::kDBIterator;
  auto* impl = static_cast<DBImpl*>(db->rep->GetRootDB());
  auto* family = static_cast<ColumnFamilyHandleImpl*>(impl->DefaultColumnFamily());
  // The iterator gives the version back that it holds, and with it the files.
  SuperVersion* version = family->cfd()->GetReferencedSuperVersion(impl);
  places->iterator.reset(impl->NewIteratorImpl(read, family, version, kMaxSequenceNumber, nullptr, /*expose_blob_index=*/true));
  return places;
}

void ottla_places_free(void* handle) noexcept { delete static_cast<Places*>(handle); }

void ottla_places_seek(void* handle, const char* key, size_t bytes) noexcept {
  static_cast<Places*>(handle)->iterator->Seek(Slice(key, bytes));
}

void ottla_places_seek_for_prev(void* handle, const char* key, size_t bytes) noexcept {
  static_cast<Places*>(handle)->iterator->SeekForPrev(Slice(key, bytes));
}

void ottla_places_next(void* handle) noexcept { static_cast<Places*>(handle)->iterator->Next(); }

// Whether there is a key; if not, `ottla_places_error` tells whether that is the end.
bool ottla_places_get(void* handle, OttlaPlace* place) noexcept {
  auto* places = static_cast<Places*>(handle);
  auto& iterator = *places->iterator;
  if (!places->problem.ok() || !iterator.Valid()) {
    return false;
  }
  const Slice key = iterator.key();
  const Slice value = iterator.value();
  *place = OttlaPlace{key.data(), key.size(), value.data(), value.size(), iterator.IsBlob(), 0, 0, 0};
  if (!place->is_blob) {
    return true;
  }
  BlobIndex index;
  places->problem = value.empty() ? Status::Corruption("an empty blob index") : index.DecodeFrom(value);
  if (!places->problem.ok()) {
    return false;
  }
  // The log is written without expiry, compression or values inside of key files.
  if (index.IsInlined() || index.HasTTL() || index.IsSameFile() || index.compression() != kNoCompression) {
    places->problem = Status::Corruption("a value of a kind that is never written", index.DebugString(false));
    return false;
  }
  place->file = index.file_number();
  place->offset = index.offset();
  place->size = index.size();
  return true;
}

// Whether it ended at something that is not in memory.
bool ottla_places_waits(void* handle) noexcept {
  auto* places = static_cast<Places*>(handle);
  return places->problem.ok() && places->iterator->status().IsIncomplete();
}

// What went wrong, to be freed by `ottla_places_error_free`; null if nothing did.
char* ottla_places_error(void* handle) noexcept {
  auto* places = static_cast<Places*>(handle);
  const Status status = places->problem.ok() ? places->iterator->status() : places->problem;
  return status.ok() ? nullptr : strdup(status.ToString().c_str());
}

void ottla_places_error_free(char* text) noexcept { free(text); }

// How fast flushes and compactions may write from now on, in bytes a second.
void ottla_set_background_rate(rocksdb_t* db, int64_t bytes_per_second) noexcept {
  auto limiter = db->rep->GetDBOptions().rate_limiter;
  if (limiter != nullptr) {
    limiter->SetBytesPerSecond(bytes_per_second);
  }
}

// The same as it is now; 0 without a limiter.
int64_t ottla_background_rate(rocksdb_t* db) noexcept {
  auto limiter = db->rep->GetDBOptions().rate_limiter;
  return limiter == nullptr ? 0 : limiter->GetBytesPerSecond();
}
}
