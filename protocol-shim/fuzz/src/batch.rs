//! The batch header and the walk over batches laid end to end.
//!
//! Claims: nothing panics; nothing is allocated; every batch of the walk is a slice of the input, directly after the one
//! before, as long as its header says; stamping offset or time leaves the checksum right.

#![no_main]

mod memory;

use libfuzzer_sys::fuzz_target;
use ottla_protocol::batch;

/// Where the checksum stands; it covers what follows.
const CRC: std::ops::Range<usize> = 17..21;

fuzz_target!(|data: &[u8]| {
    let (end, used) = memory::measure(|| {
        let mut end = 0;
        for item in batch::walk(data) {
            let Ok((header, bytes)) = item else {
                break;
            };
            assert_eq!(bytes.as_ptr(), data[end..].as_ptr());
            assert_eq!(bytes.len(), header.total_len());
            assert!(bytes.len() >= batch::HEADER_LEN);
            end += bytes.len();
            let _ = (
                header.last_offset(),
                header.next_offset(),
                header.last_sequence(),
            );
            let _ = (
                header.compression(),
                header.timestamp_type(),
                header.delete_horizon_ms(),
            );
        }
        end
    });
    assert_eq!(used.peak, 0, "the walk allocates nothing");
    assert!(end <= data.len());

    if let Some(Ok((_, bytes))) = batch::walk(data).next() {
        let mut copy = bytes.to_vec();
        // A right checksum, or the claims below would nearly always be about a wrong one.
        let crc = crc32c::crc32c(&copy[CRC.end..]);
        copy[CRC].copy_from_slice(&crc.to_be_bytes());
        assert!(batch::crc_matches(&copy));
        batch::stamp(&mut copy, 42, 7);
        assert!(batch::crc_matches(&copy));
        batch::stamp_log_append_time(&mut copy, 1_234);
        assert!(batch::crc_matches(&copy));
        let stamped = batch::BatchHeader::parse(&copy).expect("it parsed before");
        assert_eq!(
            (stamped.base_offset, stamped.partition_leader_epoch),
            (42, 7)
        );
        assert_eq!(stamped.max_timestamp, 1_234);
    }
});
