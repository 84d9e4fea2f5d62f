use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use ottla_coordinator::record::MetadataRecord;

use super::*;

fn wire_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn image_with(name: &str, id: u128) -> Image {
    let mut image = Image::default();
    let topic = MetadataRecord::Topic {
        name: name.to_owned(),
        topic_id: Uuid::from_u128(id),
    };
    image.apply(&topic).unwrap();
    image
}

fn creatable(name: &str, num_partitions: i32) -> CreatableTopic {
    let mut topic = CreatableTopic::default();
    topic.name = wire_name(name);
    topic.num_partitions = num_partitions;
    topic
}

#[test]
fn what_appears_twice_is_found() {
    assert_eq!(
        repeated(["a", "b", "a", "c", "a"].into_iter()),
        HashSet::from(["a"])
    );
}

#[test]
fn partitions_of_a_request_are_summed_with_the_default_and_with_assignments() {
    let mut assigned = creatable("c", -1);
    assigned.assignments = vec![CreatableReplicaAssignment::default(); 4];
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![
        creatable("a", 2),
        creatable("b", -1),
        assigned,
        creatable("d", -7),
    ];
    assert_eq!(partitions_to_create(&request, 10), 2 + 10 + 4);

    request.topics = vec![creatable("a", i32::MAX), creatable("b", i32::MAX)];
    assert!(partitions_to_create(&request, 1) > MAX_PARTITIONS_PER_REQUEST);
}

#[test]
fn a_config_without_a_value_or_of_an_unknown_name_is_refused() {
    let loaded = crate::config::Config::load(None, std::iter::empty(), &[]).unwrap();
    let live = DynamicConfig::at_start(&loaded.config);
    let entry = |name: &'static str, value: Option<&'static str>| {
        let mut entry = CreatableTopicConfig::default();
        entry.name = StrBytes::from_static_str(name);
        entry.value = value.map(StrBytes::from_static_str);
        entry
    };
    for bad in [
        entry("retention.ms", None),
        entry("no.such.config", Some("1")),
    ] {
        let mut topic = creatable("a", 1);
        topic.configs = vec![bad];
        assert_eq!(
            checked_configs(&topic, &live).unwrap_err().code,
            ErrorCode::InvalidConfig
        );
    }
    let mut topic = creatable("a", 1);
    topic.configs = vec![entry("cleanup.policy", Some("compact"))];
    assert_eq!(
        checked_configs(&topic, &live).unwrap()["cleanup.policy"],
        "compact"
    );
}

fn to_delete(topics: &[(Option<&str>, u128)]) -> DeleteTopicsRequest {
    let mut request = DeleteTopicsRequest::default();
    let state = |(name, id): &(Option<&str>, u128)| {
        let mut state = DeleteTopicState::default();
        state.name = name.map(wire_name);
        state.topic_id = Uuid::from_u128(*id);
        state
    };
    request.topics = topics.iter().map(state).collect();
    request
}

fn planned(image: &Image, topics: &[(Option<&str>, u128)]) -> Vec<Result<TopicRef, String>> {
    let plan = plan_deletions(image, topics_to_delete(&to_delete(topics), 6), None).into_iter();
    plan.map(|deletion| deletion.outcome.map_err(|refusal| refusal.message))
        .collect()
}

#[test]
fn topics_are_deleted_by_name_or_by_id_and_never_by_both() {
    let image = image_with("a", 5);
    let plan = planned(
        &image,
        &[(Some("b"), 0), (None, 9), (None, 0), (Some("c"), 7)],
    );
    let expected = [
        Ok(TopicRef::Name("b".to_owned())),
        Ok(TopicRef::Id(Uuid::from_u128(9))),
        Err("Neither topic name nor id were specified.".to_owned()),
        Err("You may not specify both topic name and topic id.".to_owned()),
    ];
    assert_eq!(plan, expected);
}

#[test]
fn a_topic_named_twice_is_answered_once_and_not_deleted() {
    let image = image_with("a", 5);
    let plan = planned(
        &image,
        &[(Some("b"), 0), (Some("b"), 0), (None, 9), (None, 9)],
    );
    let expected = [
        Err("Duplicate topic name.".to_owned()),
        Err("Duplicate topic id.".to_owned()),
    ];
    assert_eq!(plan, expected);

    let plan = planned(&image, &[(Some("a"), 0), (None, 5)]);
    assert!(plan[0].as_ref().unwrap_err().contains("already supplied"));
    assert_eq!(plan[1], Ok(TopicRef::Id(Uuid::from_u128(5))));
}

#[test]
fn deletion_switched_off_refuses_every_topic_with_the_error_of_the_version() {
    for (version, code) in [
        (1, ErrorCode::InvalidRequest),
        (3, ErrorCode::TopicDeletionDisabled),
    ] {
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = vec![wire_name("a"), wire_name("b")];
        let asked = topics_to_delete(&request, version);
        let plan = plan_deletions(&Image::default(), asked, Some(deletion_disabled(version)));
        assert_eq!(plan.len(), 2);
        assert!(
            plan.iter()
                .all(|deletion| deletion.outcome.as_ref().unwrap_err().code == code)
        );
    }
}

#[test]
fn only_growth_counts_as_partitions_to_add() {
    let image = image_with("a", 5);
    let grow = |name: &str, count| {
        let mut topic = CreatePartitionsTopic::default();
        topic.name = wire_name(name);
        topic.count = count;
        topic
    };
    let mut request = CreatePartitionsRequest::default();
    request.topics = vec![grow("a", 7), grow("unknown", 1_000_000), grow("a", -3)];
    assert_eq!(partitions_to_add(&image, &request), 7);
}
