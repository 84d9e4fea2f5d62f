//! What consumers of a group tell each other through the coordinator: subscriptions and assignments (Kafka's
//! `ConsumerProtocol`), and the range assignor.
//!
//! Used by `member.rs`, and by `group describe` to show who reads what. The bytes come from other members, so they are
//! read with bounds by hand, not by a codec that trusts counts. Only what all versions share is read: topics, and
//! partitions by topic. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::client::Partition;

/// The assignor's name, as stock clients know it.
pub const RANGE: &str = "range";

/// The version written; 1 adds owned partitions, which the range assignor does not look at.
const VERSION: i16 = 1;

/// The subscription to these topics.
pub fn subscription(topics: &[String]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    bytes.put_i32(topics.len() as i32);
    for topic in topics {
        put_text(&mut bytes, topic);
    }
    bytes.put_i32(-1);
    bytes.put_i32(0);
    bytes.freeze()
}

/// The topics of a subscription; `None` if it is none.
pub fn subscribed_topics(bytes: &[u8]) -> Option<BTreeSet<String>> {
    let mut rest = bytes;
    take_version(&mut rest)?;
    let count = take_i32(&mut rest)?;
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        topics.insert(take_text(&mut rest)?);
    }
    Some(topics)
}

/// An assignment.
pub fn assignment(partitions: &BTreeSet<Partition>) -> Bytes {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    bytes.put_i32(topics.len() as i32);
    for (topic, partitions) in topics {
        put_text(&mut bytes, topic);
        bytes.put_i32(partitions.len() as i32);
        for partition in partitions {
            bytes.put_i32(partition);
        }
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

/// The partitions of an assignment; `None` if it is none. Empty bytes assign nothing.
pub fn assigned_partitions(bytes: &[u8]) -> Option<BTreeSet<Partition>> {
    let mut partitions = BTreeSet::new();
    let mut rest = bytes;
    if rest.is_empty() {
        return Some(partitions);
    }
    take_version(&mut rest)?;
    for _ in 0..take_i32(&mut rest)? {
        let topic = take_text(&mut rest)?;
        for _ in 0..take_i32(&mut rest)? {
            partitions.insert((topic.clone(), take_i32(&mut rest)?));
        }
    }
    Some(partitions)
}

/// Kafka's `RangeAssignor`: each topic's partitions in order, cut into as equal runs as there are members subscribed
/// to it, the first members one longer where they do not divide. Members go by id.
pub fn range(
    subscriptions: &BTreeMap<String, BTreeSet<String>>,
    partitions_of: &BTreeMap<String, i32>,
) -> BTreeMap<String, BTreeSet<Partition>> {
    let mut assigned: BTreeMap<String, BTreeSet<Partition>> = subscriptions
        .keys()
        .map(|member| (member.clone(), BTreeSet::new()))
        .collect();
    for (topic, partitions) in partitions_of {
        let subscribed = subscriptions
            .iter()
            .filter(|(_, topics)| topics.contains(topic));
        let members: Vec<&String> = subscribed.map(|(member, _)| member).collect();
        let count = members.len() as i32;
        let mut next = 0;
        for (at, member) in (0..).zip(members) {
            let share = partitions / count + i32::from(at < partitions % count);
            let run = (next..next + share).map(|partition| (topic.clone(), partition));
            assigned.entry(member.clone()).or_default().extend(run);
            next += share;
        }
    }
    assigned
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    bytes.put_i16(text.len() as i16);
    bytes.extend_from_slice(text.as_bytes());
}

fn take_version(rest: &mut &[u8]) -> Option<i16> {
    let version = i16::from_be_bytes(*rest.split_off(..2)?.first_chunk()?);
    (version >= 0).then_some(version)
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(*rest.split_off(..4)?.first_chunk()?))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = i16::from_be_bytes(*rest.split_off(..2)?.first_chunk()?);
    let bytes = rest.split_off(..usize::try_from(length).ok()?)?;
    Some(std::str::from_utf8(bytes).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = subscription(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(subscribed_topics(&bytes), Some(topics(&["a", "b"])));
        let partitions = BTreeSet::from([
            ("a".to_owned(), 0),
            ("a".to_owned(), 7),
            ("b".to_owned(), 1),
        ]);
        assert_eq!(
            assigned_partitions(&assignment(&partitions)),
            Some(partitions)
        );
        assert_eq!(assigned_partitions(&[]), Some(BTreeSet::new()));
    }

    /// The codec knows the schemas from Kafka's own files.
    #[test]
    fn the_bytes_are_kafkas() {
        use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
        use kafka_protocol::protocol::Decodable;
        let mut bytes = subscription(&["a".to_owned()]).slice(2..);
        let decoded = ConsumerProtocolSubscription::decode(&mut bytes, VERSION).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(decoded.topics[0].as_str(), "a");
        let mut bytes = assignment(&BTreeSet::from([("a".to_owned(), 3)])).slice(2..);
        let decoded = ConsumerProtocolAssignment::decode(&mut bytes, VERSION).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(decoded.assigned_partitions[0].partitions, [3]);
    }

    #[test]
    fn bytes_cut_anywhere_or_random_are_refused_without_harm() {
        let whole = subscription(&["topic".to_owned()]);
        for end in 0..13 {
            assert_eq!(subscribed_topics(&whole[..end]), None, "cut at {end}");
        }
        let seed = 0xc0_5e11;
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..30)).map(|_| random.u8(..4)).collect();
            let _ = subscribed_topics(&bytes);
            if let Some(partitions) = assigned_partitions(&bytes) {
                assert!(partitions.len() * 4 <= bytes.len());
            }
        }
    }

    #[test]
    fn range_gives_every_partition_once_and_the_first_members_one_more() {
        let subscriptions = BTreeMap::from([
            ("m1".to_owned(), topics(&["a", "b"])),
            ("m2".to_owned(), topics(&["a"])),
            ("m3".to_owned(), topics(&["a", "b"])),
        ]);
        let partitions = BTreeMap::from([
            ("a".to_owned(), 4),
            ("b".to_owned(), 1),
            ("c".to_owned(), 9),
        ]);
        let assigned = range(&subscriptions, &partitions);
        let of = |member: &str| -> Vec<(&str, i32)> {
            let partitions = assigned[member].iter();
            partitions
                .map(|(topic, index)| (topic.as_str(), *index))
                .collect()
        };
        assert_eq!(of("m1"), [("a", 0), ("a", 1), ("b", 0)]);
        assert_eq!(of("m2"), [("a", 2)]);
        assert_eq!(of("m3"), [("a", 3)]);
    }
}
