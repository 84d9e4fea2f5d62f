//! Rows P: batches that must not be stored, and some odd ones that must be, byte for byte.

use ottla_protocol::codec::messages::{FetchResponse, InitProducerIdResponse};

use crate::batch::{
    Batch, CONTROL, GZIP, LOG_APPEND_TIME, LZ4, Record, SNAPPY, TRANSACTIONAL, ZSTD, record_header,
};
use crate::table::Row;
use crate::target::Target;
use crate::wire::{self, Fetch, PRODUCE, Produce, Wire};

/// The version of most rows: the last with plain encodings, the first that takes zstd.
const ANSWER: (i16, i16) = (PRODUCE, 7);

/// What the rows are made of.
struct Rows<'a> {
    topic: &'a str,
    now_ms: i64,
    /// A producer whose next sequence is 1.
    producer_id: i64,
    rows: Vec<Row>,
}

/// The rows, for a topic that has one partition. Makes a producer known to it first.
pub fn rows(target: &Target, topic: &str) -> Vec<Row> {
    let now_ms = target.now_ms();
    let answer = target.ask(&wire::init_producer_id(None, 0));
    let producer: InitProducerIdResponse = wire::decode(&answer, 1);
    assert_eq!(producer.error_code, 0);
    let producer_id = producer.producer_id.0;
    let first = Batch::good(now_ms).with(|batch| {
        (batch.producer_id, batch.producer_epoch, batch.base_sequence) = (producer_id, 0, 0);
    });
    let answer = target.ask(&Produce::of(topic, &first.build()).framed());
    assert_eq!(wire::codes(PRODUCE, 7, &answer), [0]);

    let mut rows = Rows {
        topic,
        now_ms,
        producer_id,
        rows: Vec::new(),
    };
    rows.requests();
    rows.frames_of_batches();
    rows.counts();
    rows.producers();
    rows.compressed();
    rows.records();
    rows.rows
}

impl Rows<'_> {
    fn good(&self) -> Batch {
        Batch::good(self.now_ms)
    }

    fn fails(&mut self, id: &'static str, what: &str, batch: &Batch, code: i16) {
        self.bytes_fail(id, what, &batch.build(), code);
    }

    fn bytes_fail(&mut self, id: &'static str, what: &str, records: &[u8], code: i16) {
        let request = Produce::of(self.topic, records).framed();
        self.rows
            .push(Row::fails(id, what, request, ANSWER, &[code]));
    }

    fn passes(&mut self, id: &'static str, what: &str, batch: &Batch) {
        let request = Produce::of(self.topic, &batch.build()).framed();
        self.rows.push(Row::passes(id, what, request, ANSWER));
    }

    fn requests(&mut self) {
        let topic = self.topic;
        let good = self.good().build();
        let bad = self.good().with(|batch| batch.wrong_crc = true).build();
        let of = |records| Produce::of(topic, records);
        let acks = |acks, topic, records| {
            Produce {
                acks,
                topic,
                ..of(records)
            }
            .framed()
        };
        let partitions = |partitions| {
            Produce {
                partitions,
                ..of(&good)
            }
            .framed()
        };
        let zstd = self.good().with(|batch| batch.attributes = ZSTD).build();
        let version_3 = Produce {
            version: 3,
            ..of(&zstd)
        };
        self.rows.extend([
            Row::fails("P1", "acks 2", acks(2, topic, &good), ANSWER, &[21]),
            Row::fails("P1", "acks -2", acks(-2, topic, &good), ANSWER, &[21]),
            Row::closes("P2", "acks 0 to a bad topic", acks(0, "a/b", &good)),
            Row::closes("P3", "acks 0 with a bad CRC", acks(0, topic, &bad)),
            Row::fails(
                "P9",
                "records null",
                partitions(vec![(0, None)]),
                ANSWER,
                &[87],
            ),
            Row::fails(
                "P35",
                "zstd in Produce v3",
                version_3.framed(),
                (PRODUCE, 3),
                &[76],
            ),
            Row::fails(
                "P56",
                "partition -1",
                partitions(vec![(-1, Some(&good))]),
                ANSWER,
                &[3],
            ),
            Row::fails(
                "P56",
                "partition 2^31-1",
                partitions(vec![(i32::MAX, Some(&good))]),
                ANSWER,
                &[3],
            ),
            Row::fails(
                "P57",
                "a partition twice",
                partitions(vec![(0, Some(&good)), (0, Some(&good))]),
                ANSWER,
                &[42, 42],
            ),
        ]);
        let large = Record::good(0).with(|record| record.value = vec![b'x'; 1_150_000]);
        self.fails(
            "P58",
            "a batch of 1.1 MiB",
            &Batch::of(1, large.framed(), self.now_ms),
            10,
        );
    }

    fn frames_of_batches(&mut self) {
        let good = self.good();
        let change = |change: &dyn Fn(&mut Batch)| good.clone().with(change);
        self.fails("P4", "bad CRC", &change(&|batch| batch.wrong_crc = true), 2);
        self.fails("P5", "magic 0", &change(&|batch| batch.magic = 0), 87);
        self.fails("P6", "magic 1", &change(&|batch| batch.magic = 1), 87);
        self.fails("P7", "magic 3", &change(&|batch| batch.magic = 3), 2);
        self.fails("P8", "magic -1", &change(&|batch| batch.magic = -1), 2);
        self.bytes_fail("P10", "no bytes", &[], 87);
        self.bytes_fail("P11", "10 bytes", &good.build()[..10], 87);
        self.bytes_fail(
            "P12",
            "two batches",
            &[good.build(), good.build()].concat(),
            87,
        );
        self.fails(
            "P20",
            "base offset 5",
            &change(&|batch| batch.base_offset = 5),
            87,
        );
        self.fails(
            "P21",
            "base offset -5",
            &change(&|batch| batch.base_offset = -5),
            87,
        );
        self.fails(
            "P22",
            "batch length + 100",
            &change(&|batch| batch.length_off_by = 100),
            87,
        );
        self.fails(
            "P22",
            "batch length 2^31-1",
            &change(&|batch| batch.length = Some(i32::MAX)),
            87,
        );
        self.fails(
            "P23",
            "batch length -20",
            &change(&|batch| batch.length = Some(-20)),
            2,
        );
        self.fails(
            "P23",
            "batch length -2^31",
            &change(&|batch| batch.length = Some(i32::MIN)),
            2,
        );
        self.fails(
            "P23",
            "batch length 20 less",
            &change(&|batch| batch.length_off_by = -20),
            2,
        );
        self.fails(
            "P25",
            "control batch",
            &change(&|batch| batch.attributes = CONTROL),
            87,
        );
        self.fails(
            "P25",
            "control batch of a transaction",
            &change(&|batch| batch.attributes = CONTROL | TRANSACTIONAL),
            87,
        );
    }

    fn counts(&mut self) {
        let good = self.good();
        let counted = |delta, count| {
            good.clone().with(|batch| {
                (batch.last_offset_delta, batch.record_count) = (delta, count);
            })
        };
        self.fails(
            "P14",
            "last offset delta 5 for one record",
            &counted(5, 1),
            87,
        );
        self.fails("P15", "count 2^31-1, delta 0", &counted(0, i32::MAX), 87);
        self.fails(
            "P16",
            "count 2^31-1 and the delta for it",
            &counted(i32::MAX - 1, i32::MAX),
            87,
        );
        self.fails("P17", "count -1", &counted(0, -1), 87);
        self.fails("P17", "count -1 and the delta for it", &counted(-2, -1), 87);
        self.fails("P18", "count 0", &counted(0, 0), 87);
        self.fails("P18", "count 0 and the delta for it", &counted(-1, 0), 87);
        self.fails("P19", "count 2 for one record", &counted(1, 2), 87);
        let two = [Record::good(0).framed(), Record::good(1).framed()].concat();
        self.fails(
            "P19",
            "count 1 for two records",
            &Batch::of(1, two, self.now_ms),
            87,
        );
    }

    fn producers(&mut self) {
        let known = self.producer_id;
        let good = self.good();
        let by = |id, epoch, sequence| {
            good.clone().with(|batch| {
                (batch.producer_id, batch.producer_epoch, batch.base_sequence) =
                    (id, epoch, sequence);
            })
        };
        self.fails(
            "P26",
            "sequence -1 with a producer id",
            &by(known, 0, -1),
            87,
        );
        self.fails("P27", "sequence gap", &by(known, 0, 7), 45);
        self.fails("P28", "producer epoch -5", &by(known, -5, 0), 47);
        self.fails("P29", "producer id -2", &by(-2, 0, 0), 87);

        let transactional = by(known, 0, 1)
            .with(|batch| batch.attributes = TRANSACTIONAL)
            .build();
        self.bytes_fail("P30", "transactional bit without an id", &transactional, 53);
        let unknown_id = Produce {
            transactional_id: Some("nobody"),
            ..Produce::of(self.topic, &transactional)
        };
        self.rows.push(Row::fails(
            "P31",
            "unknown transactional id",
            unknown_id.framed(),
            ANSWER,
            &[49],
        ));
    }

    fn compressed(&mut self) {
        let good = self.good();
        let coded = |codec: i16, records: &[u8]| {
            good.clone().with(|batch| {
                batch.attributes = codec;
                batch.records = records.to_vec();
            })
        };
        let garbage = b"no codec wrote this, it is a sentence";
        for (id, code) in [("P32", 5), ("P33", 6), ("P34", 7)] {
            self.fails(
                id,
                &format!("compression code {code}"),
                &coded(code, garbage),
                76,
            );
        }
        self.fails("P36", "gzip garbage", &coded(GZIP, garbage), 87);
        self.fails("P37", "lz4 garbage", &coded(LZ4, garbage), 87);
        self.fails("P38", "zstd garbage", &coded(ZSTD, garbage), 87);
        for codec in [GZIP, SNAPPY, LZ4, ZSTD] {
            self.fails(
                "P38",
                &format!("codec {codec} without bytes"),
                &coded(codec, &[]),
                87,
            );
        }
        // The length of the block: 2^32 - 1.
        let four_gib = b"\xff\xff\xff\xff\x0f\x00a";
        self.fails(
            "P39",
            "snappy of 4 GiB in 7 bytes",
            &coded(SNAPPY, four_gib),
            87,
        );
        let framed = Wire::new()
            .raw(b"\x82SNAPPY\0")
            .i32(1)
            .i32(1)
            .bytes(Some(four_gib))
            .0;
        assert_eq!(framed.len(), 27);
        self.fails(
            "P40",
            "framed snappy of 4 GiB in 27 bytes",
            &coded(SNAPPY, &framed),
            87,
        );

        let records = Record::good(0)
            .with(|record| record.value = garbage.repeat(100))
            .framed();
        for (codec, what, whole) in [
            (GZIP, "gzip", gzip(&records)),
            (LZ4, "lz4", lz4(&records)),
            (ZSTD, "zstd", zstd(&records)),
            (SNAPPY, "raw snappy", snappy(&records)),
            (SNAPPY, "framed snappy", framed_snappy(&records)),
        ] {
            self.passes("P41", &format!("{what}, whole"), &coded(codec, &whole));
            // In the last bytes, in the middle, and behind the first byte.
            for kept in [whole.len() - 9, whole.len() / 2, 1] {
                let cut = coded(codec, &whole[..kept]);
                let what = format!("{what}, {kept} bytes of {}", whole.len());
                self.fails("P41", &what, &cut, 87);
            }
        }
        // Cut between its blocks, so that each block that is left is whole.
        let first = framed_snappy(&records[..SNAPPY_BLOCK]);
        self.fails(
            "P41",
            "framed snappy without its last blocks",
            &coded(SNAPPY, &first),
            87,
        );
    }

    fn records(&mut self) {
        let now_ms = self.now_ms;
        let of = |record: Record| Batch::of(1, record.framed(), now_ms);
        let with = |change: &dyn Fn(&mut Record)| of(Record::good(0).with(change));
        self.fails(
            "P44",
            "record length -1",
            &with(&|record| record.length = Some(-1)),
            87,
        );
        self.fails(
            "P45",
            "record length 2^31-1",
            &with(&|record| record.length = Some(i64::from(i32::MAX))),
            87,
        );
        self.fails(
            "P45",
            "record length of 6 bytes",
            &with(&|record| record.length = Some(1 << 40)),
            87,
        );
        self.fails(
            "P48",
            "header count 2^31-1",
            &with(&|record| record.header_count = i64::from(i32::MAX)),
            87,
        );
        self.fails(
            "P49",
            "header count -1",
            &with(&|record| record.header_count = -1),
            87,
        );
        let null_key = Wire::new().varint(-1).varint(-1).0;
        let null_key =
            with(&|record| (record.header_count, record.headers) = (1, null_key.clone()));
        self.fails("P50", "header key null", &null_key, 87);

        let two_hours = 2 * 3_600_000;
        self.fails(
            "P54",
            "timestamp 2 h ahead",
            &Batch::good(now_ms + two_hours),
            32,
        );
        let overflow = of(Record::good(0).with(|record| record.timestamp_delta = i64::MAX));
        self.fails("P55", "base timestamp and delta overflow", &overflow, 32);
        let marked = self.good().with(|batch| batch.attributes = LOG_APPEND_TIME);
        self.fails("P55", "marked as stamped by the broker", &marked, 32);
    }
}

/// P51 and P52: header keys that are not UTF-8, and one key twice, come back as they were sent.
pub fn odd_headers_are_kept(target: &Target, topic: &str) {
    let headers = [
        record_header(b"\xff\xfe", b"1"),
        record_header(b"same", b"2"),
        record_header(b"same", b"3"),
    ];
    let record = Record::good(0).with(|record| {
        (record.header_count, record.headers) = (3, headers.concat());
    });
    let sent = Batch::of(1, record.framed(), target.now_ms()).build();
    let answer = target.ask(&Produce::of(topic, &sent).framed());
    assert_eq!(wire::codes(PRODUCE, 7, &answer), [0]);

    let answer = target.ask(&Fetch::of(topic, 0).framed());
    let response: FetchResponse = wire::decode(&answer, 11);
    let partition = &response.responses[0].partitions[0];
    let kept = partition.records.as_deref().expect("the batch is fetched");
    // Base offset and leader epoch are the broker's to write; neither is under the checksum.
    let own = |batch: &[u8]| [&batch[8..12], &batch[16..]].concat();
    assert_eq!(own(kept), own(&sent));
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

pub fn lz4(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// One block, as most clients write it.
pub fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::raw::Encoder::new();
    encoder.compress_vec(bytes).expect("short enough")
}

/// How much goes into a block of `framed_snappy`.
const SNAPPY_BLOCK: usize = 1 << 10;

/// The framing of the Java library (`SnappyOutputStream`): a header, then blocks with their lengths.
pub fn framed_snappy(bytes: &[u8]) -> Vec<u8> {
    let header = Wire::new().raw(b"\x82SNAPPY\0").i32(1).i32(1);
    let blocks = bytes.chunks(SNAPPY_BLOCK);
    blocks
        .fold(header, |wire, block| wire.bytes(Some(&snappy(block))))
        .0
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory takes it")
}
