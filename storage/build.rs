//! Compiles `src/rocks/native.cc` against the headers, and with the definitions, that `librocksdb-sys` compiled RocksDB with:
//! both must see the same classes.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/rocks/native.cc");
    println!("cargo:rerun-if-env-changed=ROCKSDB_LIB_DIR");
    assert!(
        env::var_os("ROCKSDB_LIB_DIR").is_none(),
        "unset ROCKSDB_LIB_DIR: another RocksDB than the one that librocksdb-sys brings would not fit its headers"
    );
    let sources = env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR")
        .expect("librocksdb-sys tells where its sources are");
    let rocksdb = PathBuf::from(sources).join("rocksdb");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .file("src/rocks/native.cc")
        .include(rocksdb.join("include"))
        .include(&rocksdb)
        .flag("-include")
        .flag("cstdint")
        // RocksDB's own headers give some.
        .warnings(false);
    for name in [
        "NDEBUG",
        "HAVE_ALIGNED_NEW",
        "HAVE_UINT128_EXTENSION",
        "OS_LINUX",
        "ROCKSDB_PLATFORM_POSIX",
        "ROCKSDB_LIB_IO_POSIX",
        "ROCKSDB_SCHED_GETCPU_PRESENT",
        "ROCKSDB_AUXV_GETAUXVAL_PRESENT",
        "ROCKSDB_FALLOCATE_PRESENT",
        "ROCKSDB_RANGESYNC_PRESENT",
    ] {
        build.define(name, (name == "NDEBUG").then_some("1"));
    }
    build.compile("ottla_native");
}
