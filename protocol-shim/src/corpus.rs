//! The inputs that the fuzz targets start from (tests only): checks that the repository holds what this code makes,
//! or writes it with `OTTLA_WRITE_CORPUS=1 cargo test -p ottla-protocol corpus`, which is due when the codec learns a
//! request kind.

use std::fs;
use std::io::Write;
use std::path::Path;

use bytes::BufMut;
use fastrand::Rng;

use crate::batch::BatchBuilder;
use crate::every_request::REQUEST_KINDS;
use crate::guard;
use crate::sample::{self, Size};

#[test]
fn the_corpus_is_what_this_code_makes() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"));
    let mut random = Rng::with_seed(0xc0_4b05);
    for (name, frame) in requests(&mut random) {
        write(folder, "request", &name, &frame);
        if ["00-", "03-", "11-", "18-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            // The first byte sets how the target cuts the stream.
            let mut stream = vec![3];
            for _ in 0..2 {
                stream.put_i32(frame.len() as i32);
                stream.put_slice(&frame);
            }
            write(folder, "frame", &name, &stream);
        }
    }
    let batches = batches();
    for (name, batch) in &batches {
        write(folder, "records", name, batch);
    }
    let in_a_row: Vec<&[u8]> = batches
        .iter()
        .take(3)
        .map(|(_, batch)| &batch[..])
        .collect();
    write(folder, "batch", "three", &in_a_row.concat());
    write(
        folder,
        "batch",
        "cut",
        &in_a_row.concat()[..in_a_row[0].len() + 70],
    );
}

fn write(folder: &Path, target: &str, name: &str, bytes: &[u8]) {
    let file = folder.join(target).join(name);
    if std::env::var_os("OTTLA_WRITE_CORPUS").is_some() {
        fs::create_dir_all(folder.join(target)).unwrap();
        fs::write(&file, bytes).unwrap();
    }
    let held = fs::read(&file).unwrap_or_default();
    assert!(held == bytes, "{} is not what it should be", file.display());
}

/// One frame for every kind, in the newest version both the guard and the codec know.
fn requests(random: &mut Rng) -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    for kind in REQUEST_KINDS {
        let versions = (kind.first_version..=kind.last_version).rev();
        let newest = versions.filter_map(|version| {
            guard::find(kind.api_key, version).map(|message| (version, message))
        });
        let (version, message) = newest
            .take(1)
            .next()
            .expect("the table has every kind of the codec");
        let mut frame = Vec::new();
        frame.put_i16(kind.api_key);
        frame.put_i16(version);
        frame.put_i32(1);
        frame.put_i16(4);
        frame.put_slice(b"fuzz");
        if (kind.header_version)(version) == 2 {
            frame.put_u8(0);
        }
        // The longest of some, or most arrays would be empty.
        let bodies: Vec<Vec<u8>> = (0..20)
            .map(|_| {
                sample::body(
                    random,
                    message,
                    version,
                    Size {
                        array: 2,
                        string: 6,
                    },
                )
            })
            .collect();
        frame.put_slice(
            bodies
                .iter()
                .filter(|body| body.len() < 900)
                .max_by_key(|body| body.len())
                .unwrap_or(&bodies[0]),
        );
        frames.push((format!("{:02}-{}", kind.api_key, kind.name), frame));
    }
    frames
}

/// The same five records, plain and in each compression codec, and a batch of a transaction.
fn batches() -> Vec<(String, Vec<u8>)> {
    let builder = || {
        let mut builder = BatchBuilder::new(1_700_000_000_000);
        for index in 0..5u8 {
            let value = [b'a' + index; 40];
            builder = builder.record(
                1_700_000_000_000 + i64::from(index),
                Some(b"key"),
                Some(&value),
                &[(b"h", None)],
            );
        }
        builder
    };
    let plain = builder();
    let records = plain.records_bytes().to_vec();

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&records).unwrap();
    let snappy = snap::raw::Encoder::new().compress_vec(&records).unwrap();
    // Java's stream format: magic, two versions, then blocks with their sizes.
    let mut framed_snappy = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01".to_vec();
    framed_snappy.put_i32(snappy.len() as i32);
    framed_snappy.put_slice(&snappy);
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&records).unwrap();

    vec![
        ("plain".to_owned(), plain.build().to_vec()),
        (
            "transactional".to_owned(),
            builder()
                .producer(7, 0, 3)
                .transactional(true)
                .build()
                .to_vec(),
        ),
        (
            "gzip".to_owned(),
            builder().build_with(1, &gzip.finish().unwrap()),
        ),
        ("snappy".to_owned(), builder().build_with(2, &snappy)),
        (
            "snappy-framed".to_owned(),
            builder().build_with(2, &framed_snappy),
        ),
        (
            "lz4".to_owned(),
            builder().build_with(3, &lz4.finish().unwrap()),
        ),
        (
            "zstd".to_owned(),
            builder().build_with(4, &zstd::encode_all(&records[..], 3).unwrap()),
        ),
    ]
}
