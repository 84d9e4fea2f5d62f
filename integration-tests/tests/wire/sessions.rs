//! Incremental fetch sessions (KIP-227): ask once, hear only of news.

use kafka_protocol::messages::fetch_request::ForgottenTopic;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use ottla_integration_tests::wire::Wire;

use crate::requests::{NONE, Topic, batch, create, fetch_request, produce, topic_name, values};
use crate::started;

/// A session as its client sees it.
struct Session<'a> {
    wire: &'a mut Wire,
    version: i16,
    id: i32,
    epoch: i32,
}

/// What an answer holds: partition, error, values.
type News = Vec<(i32, i16, Vec<(i64, String)>)>;

fn news(response: &FetchResponse) -> News {
    let partitions = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions);
    let mut news: News = partitions
        .map(|data| (data.partition_index, data.error_code, values(data)))
        .collect();
    news.sort();
    news
}

impl<'a> Session<'a> {
    /// Begins one over these partitions; the first answer names them all.
    fn begin(wire: &'a mut Wire, version: i16, wanted: &[(&Topic, i32, i64)]) -> (Self, News) {
        let request = fetch_request(version, wanted)
            .with_session_id(0)
            .with_session_epoch(0);
        let response = wire.ask(version, &request);
        assert_eq!(response.error_code, NONE);
        assert!(response.session_id > 0, "{response:?}");
        let session = Session {
            wire,
            version,
            id: response.session_id,
            epoch: 1,
        };
        let news = news(&response);
        (session, news)
    }

    fn request(&self, wanted: &[(&Topic, i32, i64)]) -> FetchRequest {
        fetch_request(self.version, wanted)
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
    }

    /// The next fetch; `wanted` adds partitions or changes their offsets.
    fn next(&mut self, wanted: &[(&Topic, i32, i64)]) -> News {
        let request = self.request(wanted);
        self.ask(&request)
    }

    fn forget(&mut self, topic: &Topic, partition: i32) -> News {
        let forgotten = ForgottenTopic::default().with_partitions(vec![partition]);
        let forgotten = if self.version >= 13 {
            forgotten.with_topic_id(topic.id)
        } else {
            forgotten.with_topic(topic_name(&topic.name))
        };
        let request = self
            .request(&[])
            .with_forgotten_topics_data(vec![forgotten]);
        self.ask(&request)
    }

    fn ask(&mut self, request: &FetchRequest) -> News {
        let response = self.wire.ask(self.version, request);
        assert_eq!((response.error_code, response.session_id), (NONE, self.id));
        self.epoch += 1;
        news(&response)
    }

    /// A fetch that must fail as a whole.
    fn refused(&mut self, id: i32, epoch: i32) -> i16 {
        let request = fetch_request(self.version, &[])
            .with_session_id(id)
            .with_session_epoch(epoch);
        let response = self.wire.ask(self.version, &request);
        assert_eq!((response.session_id, response.responses.len()), (0, 0));
        response.error_code
    }
}

fn value(offset: i64, text: &str) -> (i64, String) {
    (offset, text.to_owned())
}

#[test]
fn a_session_tells_everything_once_and_then_only_news() {
    let (_folder, broker, mut wire) = started("wire-session", &[]);
    let mut producer = Wire::connect(&broker);
    for version in 7..=18 {
        println!("v{version}");
        let topic = create(&mut producer, 3, &[]);
        let other = create(&mut producer, 1, &[]);
        produce(&mut producer, &topic, 1, batch(&["a"]));
        let all = [(&topic, 0, 0), (&topic, 1, 0), (&topic, 2, 0)];
        let (mut session, first) = Session::begin(&mut wire, version, &all);
        assert_eq!(
            first,
            [
                (0, NONE, vec![]),
                (1, NONE, vec![value(0, "a")]),
                (2, NONE, vec![])
            ]
        );

        // The client has read "a"; then there is nothing new.
        assert_eq!(session.next(&[(&topic, 1, 1)]), []);
        assert_eq!(session.next(&[]), []);
        produce(&mut producer, &topic, 2, batch(&["b"]));
        assert_eq!(
            session.next(&[]),
            [(2, NONE, vec![value(0, "b")])],
            "only the partition that changed"
        );
        assert_eq!(
            session.next(&[]),
            [(2, NONE, vec![value(0, "b")])],
            "until the client moves on"
        );
        assert_eq!(session.next(&[(&topic, 2, 1)]), []);

        // A partition that joins is told of once, and a forgotten one never again.
        assert_eq!(session.next(&[(&other, 0, 0)]), [(0, NONE, vec![])]);
        assert_eq!(session.next(&[]), []);
        assert_eq!(session.forget(&topic, 2), []);
        produce(&mut producer, &topic, 2, batch(&["unheard"]));
        produce(&mut producer, &other, 0, batch(&["heard"]));
        assert_eq!(session.next(&[]), [(0, NONE, vec![value(0, "heard")])]);

        // Wrong epochs and ids; none of it hurts the session.
        let (id, epoch) = (session.id, session.epoch);
        assert_eq!(session.refused(id, epoch + 1), 71);
        assert_eq!(session.refused(id, epoch - 1), 71);
        assert_eq!(session.refused(id ^ 1, epoch), 70);
        assert_eq!(session.refused(0, 5), 70);
        assert_eq!(session.next(&[(&other, 0, 1)]), []);

        // Epoch -1 ends it: a last, full fetch.
        let request = session.request(&[(&other, 0, 0)]).with_session_epoch(-1);
        let response = session.wire.ask(version, &request);
        assert_eq!((response.error_code, response.session_id), (NONE, 0));
        assert_eq!(news(&response), [(0, NONE, vec![value(0, "heard")])]);
        let epoch = session.epoch;
        assert_eq!(session.refused(id, epoch), 70);
    }
}

#[test]
fn an_error_is_told_every_time_and_its_end_too() {
    let (_folder, broker, mut wire) = started("wire-session-errors", &[]);
    let mut producer = Wire::connect(&broker);
    for version in [7, 12, 13, 18] {
        let topic = create(&mut producer, 1, &[]);
        produce(&mut producer, &topic, 0, batch(&["a"]));
        let (mut session, first) = Session::begin(&mut wire, version, &[(&topic, 0, 1)]);
        assert_eq!(first, [(0, NONE, vec![])]);
        assert_eq!(session.next(&[(&topic, 0, 9)]), [(0, 1, vec![])]);
        assert_eq!(session.next(&[]), [(0, 1, vec![])], "again");
        assert_eq!(
            session.next(&[(&topic, 0, 1)]),
            [(0, NONE, vec![])],
            "it is over, though nothing else is new"
        );
        assert_eq!(session.next(&[]), []);
    }
}

#[test]
fn a_session_by_name_does_not_take_ids_nor_the_reverse() {
    let (_folder, _broker, mut wire) = started("wire-session-ids", &[]);
    let topic = create(&mut wire, 1, &[]);
    for (begun_at, goes_on_at) in [(12, 13), (13, 12)] {
        for wanted in [vec![], vec![(&topic, 0, 0)]] {
            let (session, _) = Session::begin(&mut wire, begun_at, &[(&topic, 0, 0)]);
            let (id, epoch) = (session.id, session.epoch);
            let request = fetch_request(goes_on_at, &wanted)
                .with_session_id(id)
                .with_session_epoch(epoch);
            let response = wire.ask(goes_on_at, &request);
            assert_eq!(
                (response.error_code, response.responses.len()),
                (106, 0),
                "{begun_at} to {goes_on_at}"
            );
        }
    }
}

#[test]
fn without_room_for_a_session_the_answer_is_whole_and_has_id_0() {
    let slots = ("max.incremental.fetch.session.cache.slots", "2");
    let (_folder, _broker, mut wire) = started("wire-session-slots", &[slots]);
    let topic = create(&mut wire, 1, &[]);
    produce(&mut wire, &topic, 0, batch(&["a"]));
    let mut begin = || {
        wire.ask(
            18,
            &fetch_request(18, &[(&topic, 0, 0)]).with_session_epoch(0),
        )
    };
    let ids: Vec<i32> = (0..3)
        .map(|_| {
            let response = begin();
            assert_eq!(news(&response), [(0, NONE, vec![value(0, "a")])]);
            response.session_id
        })
        .collect();
    assert!(ids[0] > 0 && ids[1] > 0 && ids[0] != ids[1]);
    assert_eq!(ids[2], 0);
}

#[test]
fn a_parked_session_hears_of_news_and_busy_partitions_take_turns() {
    let (_folder, broker, mut wire) = started("wire-session-turns", &[]);
    let mut producer = Wire::connect(&broker);
    let topic = create(&mut producer, 2, &[]);
    for partition in [0, 1] {
        produce(&mut producer, &topic, partition, batch(&["a"]));
    }
    // Room for one batch only: each partition gets its turn although the client never moves on.
    let (mut session, _) = Session::begin(&mut wire, 18, &[(&topic, 0, 0), (&topic, 1, 0)]);
    let mut turns = Vec::new();
    for _ in 0..4 {
        let request = session.request(&[]).with_max_bytes(1);
        let heard = session.ask(&request);
        turns.extend(
            heard
                .iter()
                .filter(|(_, _, values)| !values.is_empty())
                .map(|(index, _, _)| *index),
        );
    }
    assert!(turns == [0, 1, 0, 1] || turns == [1, 0, 1, 0], "{turns:?}");

    assert_eq!(session.next(&[(&topic, 0, 1), (&topic, 1, 1)]), []);
    let request = session.request(&[]).with_max_wait_ms(20_000);
    let parked = session.wire.send(18, &request);
    produce(&mut producer, &topic, 1, batch(&["b"]));
    let response = session.wire.receive(parked);
    assert_eq!(news(&response), [(1, NONE, vec![value(1, "b")])]);
}
