//! The guard against the codec, against Kafka's measured answers, and against random bytes.

use bytes::{BufMut, Bytes};
use fastrand::Rng;

use super::*;
use crate::every_request::{REQUEST_KINDS, RequestKind};
use crate::sample::{self, Size};

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const SMALL: Size = Size {
    array: 3,
    string: 12,
};

fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn refusal(api_key: i16, version: i16, body: &[u8]) -> Cause {
    check(api_key, version, body)
        .expect_err("the body must be refused")
        .cause
}

/// Every version of every request that both the codec and the table know.
fn known_pairs() -> impl Iterator<Item = (&'static RequestKind, &'static Message, i16)> {
    REQUEST_KINDS.iter().flat_map(|kind| {
        (kind.first_version..=kind.last_version).filter_map(move |version| {
            find(kind.api_key, version).map(|message| (kind, message, version))
        })
    })
}

#[test]
fn the_table_and_the_codec_speak_of_the_same_requests() {
    assert!(MESSAGES.is_sorted_by_key(|message| message.api_key));
    for kind in REQUEST_KINDS {
        let message = MESSAGES
            .iter()
            .find(|message| message.api_key == kind.api_key);
        let message = message.unwrap_or_else(|| panic!("{} is not in the table", kind.name));
        assert_eq!(format!("{}Request", message.name), kind.name);
        for version in kind.first_version..=kind.last_version {
            let header_version = if message.flexible.contains(version) {
                2
            } else {
                1
            };
            assert_eq!(
                (kind.header_version)(version),
                header_version,
                "{} v{version}",
                kind.name
            );
        }
    }
    // What the codec does not have yet.
    let missing: Vec<&str> = MESSAGES
        .iter()
        .filter(|message| {
            !REQUEST_KINDS
                .iter()
                .any(|kind| kind.api_key == message.api_key)
        })
        .map(|message| message.name)
        .collect();
    assert_eq!(missing, ["StreamsGroupHeartbeat", "StreamsGroupDescribe"]);
}

#[test]
fn default_requests_are_accepted_to_the_last_byte() {
    let mut checked = 0;
    for (kind, _, version) in known_pairs() {
        let Some(body) = (kind.default_body)(version) else {
            panic!("{} v{version} does not encode", kind.name);
        };
        assert_eq!(
            check(kind.api_key, version, &body),
            Ok(0),
            "{} v{version}",
            kind.name
        );
        checked += 1;
    }
    assert!(checked > 200, "{checked} pairs");
}

#[test]
fn random_valid_requests_are_accepted_and_mean_the_same_to_the_codec() {
    let seed = 0x5eed_0001;
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for (kind, message, version) in known_pairs() {
        for _ in 0..20 {
            let body = sample::body(&mut random, message, version, SMALL);
            assert_eq!(
                check(kind.api_key, version, &body),
                Ok(0),
                "{} v{version} {body:02x?}",
                kind.name
            );
            let body = Bytes::from(body);
            assert_eq!(
                (kind.decode)(body.clone(), version),
                Some(0),
                "{} v{version} {body:02x?}",
                kind.name
            );
            assert_eq!(
                (kind.encode_again)(body.clone(), version),
                Some(body),
                "{} v{version}",
                kind.name
            );
        }
    }
}

#[test]
fn requests_the_codec_lacks_are_walked_too() {
    let seed = 0x5eed_0002;
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for message in MESSAGES {
        for version in message.versions.first..=message.versions.last {
            for _ in 0..10 {
                let body = sample::body(&mut random, message, version, SMALL);
                assert_eq!(
                    check(message.api_key, version, &body),
                    Ok(0),
                    "{} v{version}",
                    message.name
                );
            }
        }
    }
}

#[test]
fn a_body_cut_anywhere_is_refused() {
    let seed = 0x5eed_0003;
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for message in MESSAGES {
        for version in message.versions.first..=message.versions.last {
            let body = sample::body(&mut random, message, version, SMALL);
            for end in 0..body.len() {
                assert!(
                    check(message.api_key, version, &body[..end]).is_err(),
                    "{} v{version} {end}",
                    message.name
                );
            }
        }
    }
}

/// The guard and the codec must agree on every accepted body: same end, no panic.
#[test]
fn random_and_damaged_bodies_never_panic_and_accepted_ones_end_where_the_codec_ends() {
    let seed = 0x5eed_0004;
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let pairs: Vec<_> = known_pairs().collect();
    let (mut accepted, mut decoded) = (0, 0);
    for _ in 0..60_000 {
        let (kind, message, version) = &pairs[random.usize(..pairs.len())];
        let mut body = if random.bool() {
            (0..random.usize(..48))
                .map(|_| random.u8(..) >> random.u8(..8))
                .collect()
        } else {
            sample::body(&mut random, message, *version, SMALL)
        };
        for _ in 0..random.usize(..3) {
            if !body.is_empty() {
                let at = random.usize(..body.len());
                body[at] = random.u8(..);
            }
        }
        if let Ok(trailing) = check(kind.api_key, *version, &body) {
            accepted += 1;
            // `None`: a string that is not UTF-8, which the codec alone looks at.
            if let Some(left) = (kind.decode)(Bytes::from(body), *version) {
                decoded += 1;
                assert_eq!(left, trailing, "{} v{version}", kind.name);
            }
        }
    }
    assert!(
        accepted > 10_000 && decoded > 8_000,
        "{accepted} accepted, {decoded} decoded"
    );
}

/// The 64-fold limit without tags: what an element takes in memory per byte on the wire, at worst.
#[test]
fn no_array_element_decodes_to_more_than_40_times_its_smallest_encoding() {
    fn in_memory(kind: &'static Kind) -> usize {
        match kind {
            Kind::String | Kind::Bytes | Kind::Records => size_of::<Option<Bytes>>(),
            Kind::Array(_) => size_of::<Option<Vec<u8>>>(),
            // All fields of all versions, each at most 7 bytes of padding, and the map of unknown tags.
            Kind::Struct(fields) => {
                fields
                    .iter()
                    .map(|field| in_memory(&field.kind))
                    .sum::<usize>()
                    .next_multiple_of(8)
                    + 24
            }
            _ => fixed_size(kind),
        }
    }
    fn visit(message: &Message, kind: &'static Kind, version: i16, depth: usize) {
        assert!(
            depth <= 8,
            "{} is nested deeper than expected",
            message.name
        );
        match kind {
            Kind::Array(element) => {
                let wire = smallest(element, version, message.flexible.contains(version)).max(1);
                let memory = in_memory(element);
                assert!(
                    memory <= 40 * wire,
                    "{} v{version}: {memory} bytes for {wire}",
                    message.name
                );
                visit(message, element, version, depth + 1);
            }
            Kind::Struct(fields) => {
                for field in fields
                    .iter()
                    .filter(|field| field.versions.contains(version))
                {
                    visit(message, &field.kind, version, depth + 1);
                }
            }
            _ => {}
        }
    }
    for message in MESSAGES {
        for version in message.versions.first..=message.versions.last {
            for field in message
                .fields
                .iter()
                .filter(|field| field.versions.contains(version))
            {
                visit(message, &field.kind, version, 0);
            }
        }
    }
}

#[test]
fn unknown_keys_and_versions_are_refused() {
    for (api_key, version) in [
        (9999, 0),
        (-1, 0),
        (METADATA, 99),
        (METADATA, -1),
        (4, 0),
        (52, 0),
        (58, 0),
        (0, 2),
    ] {
        assert_eq!(
            refusal(api_key, version, &[0; 64]),
            Cause::UnknownApi,
            "{api_key} v{version}"
        );
        assert!(!knows(api_key, version));
    }
    assert!(knows(METADATA, 13));
}

/// H17, H18: the codec would ask for 144 GiB.
#[test]
fn huge_array_counts_are_refused() {
    assert_eq!(
        refusal(METADATA, 1, &i32::MAX.to_be_bytes()),
        Cause::ArrayTooLong
    );
    assert_eq!(
        refusal(METADATA, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        Cause::ArrayTooLong
    );
    assert_eq!(
        refusal(METADATA, 1, &(-2i32).to_be_bytes()),
        Cause::NegativeLength
    );
    // One more element than fits.
    assert_eq!(
        refusal(METADATA, 1, &[0, 0, 0, 2, 0, 0, 0]),
        Cause::ArrayTooLong
    );
    assert_eq!(check(METADATA, 1, &[0, 0, 0, 2, 0, 0, 0, 0]), Ok(0));
}

/// H20, and null arrays by version: 0 has none, 1 and later mean all topics.
#[test]
fn null_is_refused_where_the_schema_has_none() {
    assert_eq!(refusal(METADATA, 1, &[0, 0, 0, 1, 0xff, 0xff]), Cause::Null);
    assert_eq!(refusal(METADATA, 0, &(-1i32).to_be_bytes()), Cause::Null);
    assert_eq!(check(METADATA, 1, &(-1i32).to_be_bytes()), Ok(0));
    // v10 may name a topic by its id alone.
    let mut by_id = vec![2];
    by_id.extend([7; 16]);
    by_id.extend([0, 0, 0, 0, 0, 0]);
    assert_eq!(check(METADATA, 10, &by_id), Ok(0));
}

/// H25: Kafka ignores them; so does the guard, but tells.
#[test]
fn trailing_bytes_are_counted() {
    let mut body = (-1i32).to_be_bytes().to_vec();
    body.extend([9; 100]);
    assert_eq!(check(METADATA, 1, &body), Ok(100));
}

/// H16, H27.
#[test]
fn a_tag_larger_than_the_rest_is_refused() {
    assert_eq!(check(API_VERSIONS, 3, &[2, b'a', 2, b'1', 0]), Ok(0));
    assert_eq!(
        check(API_VERSIONS, 3, &[2, b'a', 2, b'1', 1, 5, 2, 7, 7]),
        Ok(0)
    );
    assert_eq!(
        refusal(API_VERSIONS, 3, &[2, b'a', 2, b'1', 1, 5, 3, 7, 7]),
        Cause::Truncated
    );
    assert_eq!(refusal(API_VERSIONS, 3, &[2, b'a', 2]), Cause::Truncated);
}

/// H28: the codec stops after five bytes and loses step.
#[test]
fn overlong_varints_are_refused() {
    assert_eq!(
        refusal(API_VERSIONS, 3, &[0x81, 0x80, 0x80, 0x80, 0x80, 0x00, 0, 0]),
        Cause::Varint
    );
    assert_eq!(
        refusal(
            METADATA,
            9,
            &[0x82, 0x80, 0x80, 0x80, 0x80, 0x00, 1, 0, 0, 0, 0]
        ),
        Cause::Varint
    );
    assert_eq!(
        refusal(METADATA, 9, &[0x80, 0x80, 0x80, 0x80, 0x10]),
        Cause::Varint
    );
}

/// H31: small elements and tags in great number.
#[test]
fn the_element_budget_is_shared_by_all_arrays_of_a_request() {
    // DescribeConfigs v4: resources of a type, an empty name, no keys, no tags.
    let describe_configs = |count: u32| {
        let mut body = varint(count + 1);
        body.extend([2u8, 1, 1, 0].repeat(count as usize));
        body.extend([0, 0, 0]);
        body
    };
    assert_eq!(check(32, 4, &describe_configs(65_536)), Ok(0));
    assert_eq!(
        refusal(32, 4, &describe_configs(65_537)),
        Cause::TooManyElements
    );

    // Produce v3, one topic with so many partitions without records.
    let produce = |partitions: i32| {
        let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1, b't'];
        body.put_i32(partitions);
        for partition in 0..partitions {
            body.put_i32(partition);
            body.put_i32(-1);
        }
        body
    };
    assert_eq!(check(0, 3, &produce(19_999)), Ok(0));
    assert_eq!(refusal(0, 3, &produce(20_000)), Cause::TooManyElements);
}

#[test]
fn tags_are_bounded_in_number_and_size() {
    let with_tags = |count: u8| {
        let mut body = vec![2, b'a', 2, b'1', count];
        (0..count).for_each(|tag| body.extend([tag, 0]));
        body
    };
    assert_eq!(check(API_VERSIONS, 3, &with_tags(64)), Ok(0));
    assert_eq!(refusal(API_VERSIONS, 3, &with_tags(65)), Cause::TooManyTags);

    let sized = |size: u32| {
        let mut body = vec![2, b'a', 2, b'1', 1, 0];
        body.extend(varint(size));
        body.resize(body.len() + size as usize, 0);
        body
    };
    assert_eq!(check(API_VERSIONS, 3, &sized(128 * 1024)), Ok(0));
    assert_eq!(
        refusal(API_VERSIONS, 3, &sized(128 * 1024 + 1)),
        Cause::TagTooLarge
    );
}

/// One empty tag in each of many small structs: 6 bytes on the wire, some 500 in the codec's maps.
#[test]
fn tags_in_many_small_structs_are_refused() {
    let body = |value_len: u8| {
        let mut body = varint(101);
        for _ in 0..100 {
            body.extend([2u8, 1, 1, 1, 9, value_len]);
            body.resize(body.len() + usize::from(value_len), 0);
        }
        body.extend([0, 0, 0]);
        body
    };
    assert_eq!(refusal(32, 4, &body(0)), Cause::TooManyTags);
    assert_eq!(check(32, 4, &body(16)), Ok(0));
}

/// Fetch v17: the codec reads known tags without looking at their size.
/// Found by fuzzing: 43 bytes of AlterReplicaLogDirs with a tag in nearly every struct took 4,392 bytes to decode.
#[test]
fn tags_in_a_few_structs_of_a_small_body_are_refused_too() {
    let body =
        b"\x03\x05\x00\x00\x021\x03\x01\x01\x01\x01\x01\x01\x03\x01\x01\x01\x01\x01\x00\x00\x026\
        \x03\x01\x01\x01\x01\x01\x01\x03\x01\xf8\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00";
    assert_eq!(refusal(34, 2, body), Cause::TooManyTags);
}

#[test]
fn a_known_tag_ends_at_its_size() {
    // Wait, sizes, isolation and session, three empty arrays or strings, then the tags.
    let fetch = |tags: &[u8]| [&[0; 21][..], &[1, 1, 1], tags].concat();
    assert_eq!(check(1, 17, &fetch(&[0])), Ok(0));
    assert_eq!(
        check(1, 17, &fetch(&[1, 0, 2, 2, b'c'])),
        Ok(0),
        "cluster id"
    );
    assert_eq!(
        check(1, 17, &fetch(&[1, 0, 1, 0])),
        Ok(0),
        "cluster id null"
    );
    assert_eq!(
        refusal(1, 17, &fetch(&[1, 0, 3, 2, b'c', 0])),
        Cause::TagSize
    );
    assert_eq!(
        refusal(1, 17, &fetch(&[1, 0, 1, 2, b'c'])),
        Cause::Truncated
    );
    // v14 still has the replica id as a field, and no replica state.
    assert_eq!(
        refusal(1, 14, &[&[0; 4][..], &fetch(&[1, 1, 1, 0])].concat()),
        Cause::TagVersion
    );
}

#[test]
fn nullable_structs_have_one_of_two_markers() {
    // DescribeTopicPartitions v0: topics, limit, cursor, tags.
    let body = |cursor: &[u8]| [&[1, 0, 0, 0, 9][..], cursor, &[0]].concat();
    assert_eq!(check(75, 0, &body(&[0xff])), Ok(0));
    assert_eq!(check(75, 0, &body(&[1, 2, b't', 0, 0, 0, 0, 0])), Ok(0));
    // To Kafka these are structs, to the codec null; -2 is null to both but nobody writes it.
    for marker in [0, 2, 0xfe] {
        assert_eq!(
            refusal(75, 0, &body(&[marker, 2, b't', 0, 0, 0, 0, 0])),
            Cause::NullMarker
        );
    }
}

#[test]
fn a_compact_string_is_no_longer_than_a_classic_one_can_be() {
    let named = |length: u32| {
        let mut body = varint(length + 1);
        body.resize(body.len() + length as usize, b'a');
        body.extend([2, b'1', 0]);
        body
    };
    assert_eq!(check(API_VERSIONS, 3, &named(32_767)), Ok(0));
    assert_eq!(
        refusal(API_VERSIONS, 3, &named(32_768)),
        Cause::StringTooLong
    );
}

#[test]
fn a_refusal_names_message_field_and_cause() {
    let error = check(METADATA, 1, &[0, 0, 0, 1, 0xff, 0xff]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Metadata body refused at Name: null where none is allowed"
    );
    assert_eq!(error.cause(), "null");
}
