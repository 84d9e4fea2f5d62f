use kafka_protocol::messages::describe_topic_partitions_request::{
    Cursor as RequestCursor, TopicRequest,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_coordinator::record::MetadataRecord;

use super::*;

fn image(topics: &[(&str, i32)]) -> Image {
    let mut image = Image::default();
    for (number, (name, partitions)) in (5..).zip(topics) {
        let topic_id = Uuid::from_u128(number);
        let topic = MetadataRecord::Topic {
            name: (*name).to_owned(),
            topic_id,
        };
        image.apply(&topic).unwrap();
        for partition_id in 0..*partitions {
            let partition = MetadataRecord::Partition {
                topic_id,
                partition_id,
                replicas: vec![1],
                isr: vec![1],
                leader: 1,
                leader_epoch: 3,
                partition_epoch: 4,
            };
            image.apply(&partition).unwrap();
        }
    }
    image
}

fn asked(name: Option<&str>, id: u128) -> MetadataRequestTopic {
    let mut topic = MetadataRequestTopic::default();
    topic.name = name.map(wire_name);
    topic.topic_id = Uuid::from_u128(id);
    topic
}

fn request(topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequest {
    let mut request = MetadataRequest::default();
    request.topics = topics;
    request
}

#[test]
fn an_empty_array_asks_for_all_topics_in_version_0_and_for_none_later() {
    assert_eq!(asked_topics(&request(Some(vec![])), 0), Some(Asked::All));
    assert_eq!(
        asked_topics(&request(Some(vec![])), 1),
        Some(Asked::These(vec![]))
    );
    assert_eq!(asked_topics(&request(None), 1), Some(Asked::All));
}

#[test]
fn topics_are_asked_for_by_id_from_version_12_and_each_once() {
    let by_id = request(Some(vec![
        asked(None, 7),
        asked(Some("a"), 7),
        asked(Some("a"), 0),
        asked(Some("a"), 0),
    ]));
    assert_eq!(asked_topics(&by_id, 11), None);
    let both = vec![
        TopicRef::Id(Uuid::from_u128(7)),
        TopicRef::Name("a".to_owned()),
    ];
    assert_eq!(asked_topics(&by_id, 12), Some(Asked::These(both)));
}

#[test]
fn a_topic_is_told_with_its_partitions() {
    let image = image(&[(topic_name::CONSUMER_OFFSETS, 2)]);
    let answer = topic_answer(image.topic(topic_name::CONSUMER_OFFSETS).unwrap());
    assert!(answer.is_internal);
    assert_eq!(answer.topic_id, Uuid::from_u128(5));
    assert_eq!(answer.topic_authorized_operations, OPERATIONS_NOT_ASKED);
    let second = &answer.partitions[1];
    assert_eq!(
        (
            second.partition_index,
            second.leader_id.0,
            second.leader_epoch
        ),
        (1, 1, 3)
    );
    assert_eq!(second.error_code, 0);
}

#[test]
fn a_bad_name_is_an_invalid_topic_and_a_good_one_an_unknown_topic() {
    assert_eq!(unknown_name_error("a/b"), ErrorCode::InvalidTopicException);
    assert_eq!(unknown_name_error("a"), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn a_broker_port_describes_brokers_only() {
    assert_eq!(endpoint_type_error(1), None);
    assert_eq!(
        endpoint_type_error(2).unwrap().0,
        ErrorCode::MismatchedEndpointType
    );
    assert_eq!(
        endpoint_type_error(9).unwrap().0,
        ErrorCode::UnsupportedEndpointType
    );
}

fn page(topics: &[&str], cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
    let mut request = DescribeTopicPartitionsRequest::default();
    let topic = |name: &&str| {
        let mut topic = TopicRequest::default();
        topic.name = wire_name(name);
        topic
    };
    request.topics = topics.iter().map(topic).collect();
    request.cursor = cursor.map(|(name, partition)| {
        let mut cursor = RequestCursor::default();
        cursor.topic_name = wire_name(name);
        cursor.partition_index = partition;
        cursor
    });
    request
}

type Seen = Vec<(String, i16, Vec<i32>)>;

fn seen(response: &DescribeTopicPartitionsResponse) -> Seen {
    let indexes = |topic: &DescribeTopicPartitionsResponseTopic| {
        topic.partitions.iter().map(|p| p.partition_index).collect()
    };
    let topics = response.topics.iter();
    topics
        .map(|topic| {
            (
                topic.name.as_ref().unwrap().to_string(),
                topic.error_code,
                indexes(topic),
            )
        })
        .collect()
}

fn next(response: &DescribeTopicPartitionsResponse) -> Option<(&str, i32)> {
    let cursor = response.next_cursor.as_ref()?;
    Some((cursor.topic_name.as_str(), cursor.partition_index))
}

#[test]
fn all_topics_come_in_order_page_by_page_each_partition_once() {
    let image = image(&[("b", 3), ("a", 2), ("c", 1)]);
    for limit in 1..8 {
        let mut told = Vec::new();
        let mut cursor: Option<(String, i32)> = None;
        loop {
            let from = cursor
                .as_ref()
                .map(|(name, partition)| (name.as_str(), *partition));
            let response = describe_page(&image, &page(&[], from), limit);
            let partitions: usize = response
                .topics
                .iter()
                .map(|topic| topic.partitions.len())
                .sum();
            assert!(partitions <= limit);
            for (name, error, indexes) in seen(&response) {
                assert_eq!(error, 0);
                told.extend(indexes.into_iter().map(|index| (name.clone(), index)));
            }
            cursor = next(&response).map(|(name, partition)| (name.to_owned(), partition));
            if cursor.is_none() {
                break;
            }
        }
        let expected = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0)];
        assert_eq!(
            told,
            expected.map(|(name, index)| (name.to_owned(), index)),
            "limit {limit}"
        );
    }
}

#[test]
fn named_topics_are_sorted_and_unknown_ones_told_so() {
    let image = image(&[("a", 1)]);
    let response = describe_page(&image, &page(&["x", "a", "a/b", "a"], None), 10);
    let expected = [
        ("a".to_owned(), 0, vec![0]),
        (
            "a/b".to_owned(),
            ErrorCode::InvalidTopicException.code(),
            vec![],
        ),
        (
            "x".to_owned(),
            ErrorCode::UnknownTopicOrPartition.code(),
            vec![],
        ),
    ];
    assert_eq!(seen(&response), expected);
    assert_eq!(next(&response), None);
}

#[test]
fn a_page_goes_on_behind_a_topic_that_is_gone() {
    let image = image(&[("a", 1), ("c", 2)]);
    let response = describe_page(&image, &page(&[], Some(("b", 7))), 10);
    assert_eq!(seen(&response), [("c".to_owned(), 0, vec![0, 1])]);
}

#[test]
fn a_cursor_outside_the_asked_topics_is_an_invalid_request() {
    let image = image(&[("a", 1)]);
    let invalid = ErrorCode::InvalidRequest.code();
    for cursor in [("b", 0), ("a", -1)] {
        let response = describe_page(&image, &page(&["a"], Some(cursor)), 10);
        assert_eq!(seen(&response), [("a".to_owned(), invalid, vec![])]);
    }
}

#[test]
fn requests_beside_each_other_never_create_more_topics_than_there_is_room_for() {
    const LIMIT: usize = 1_000;
    let creations = AutoCreations::default();
    let topics = AtomicUsize::new(7);
    let create = |wanted| {
        let reserved = creations.reserve(wanted, LIMIT, || topics.load(Ordering::SeqCst));
        // There before the room is given back, as an image is published before its replies.
        let there = topics.fetch_add(reserved.count, Ordering::SeqCst) + reserved.count;
        assert!(there <= LIMIT, "{there} topics");
    };
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let create = &create;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                (0..500).for_each(|_| create(rng.usize(0..5)));
            });
        }
    });
    // Nothing stayed reserved: whoever comes alone gets all that is left.
    create(LIMIT);
    assert_eq!(topics.load(Ordering::SeqCst), LIMIT);
    assert_eq!(creations.0.load(Ordering::SeqCst), 0);
    create(1);
    assert_eq!(topics.load(Ordering::SeqCst), LIMIT);
    let none = creations.reserve(usize::MAX / 2, LIMIT, || LIMIT + 1);
    assert_eq!(none.count, 0);
}
