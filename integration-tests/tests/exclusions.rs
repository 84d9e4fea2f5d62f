//! What the runs of stock clients leave out, `compat/*/excluded.txt`: each line is `item | reason | follow-up`. A line
//! that has become untrue fails here: its API is served by now, or its follow-up names a file that does not exist.

use ottla::router;
use ottla_integration_tests::repository;

/// Lines of one client whose reason is the broker. Its runs check some forty things (producing with every codec and
/// setting, each start of a consumer, nine steps of a group's life, ten of an administrator's): two are 5 %.
const MOST_FOR_THE_BROKER: usize = 2;

/// Reasons that lie with the broker, and the API key that ends them.
const NOT_SERVED: [(&str, i16); 3] = [
    ("transactions are not served yet", 24),
    ("the newer group protocol is not served yet", 68),
    ("it is not served yet", 68),
];

/// Reasons that lie with the client, as they begin.
const OF_THE_CLIENT: [&str; 2] = ["the client has ", "not part of the client"];

/// Folders of `compat` that hold what clients share.
const SHARED: [&str; 2] = ["go", "python"];

#[test]
fn every_exclusion_has_a_reason_that_is_still_true_and_a_follow_up() {
    let tests = repository().join("integration-tests/tests");
    let compat = repository().join("integration-tests/compat");
    let mut clients = 0;
    for entry in std::fs::read_dir(&compat).expect("the clients' folders") {
        let folder = entry.expect("a folder").path();
        let name = folder
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if SHARED.contains(&name.as_str()) {
            continue;
        }
        clients += 1;
        let list = std::fs::read_to_string(folder.join("excluded.txt"))
            .unwrap_or_else(|error| panic!("{name}: excluded.txt: {error}"));
        let lines = list.lines().filter(|line| !line.starts_with('#'));
        let mut for_the_broker = 0;
        for line in lines {
            let fields: Vec<&str> = line.split(" | ").collect();
            let [item, reason, follow_up] = fields[..] else {
                panic!("{name}: not item | reason | follow-up: {line}");
            };
            assert!(!item.is_empty(), "{name}: {line}");
            if OF_THE_CLIENT.iter().any(|begin| reason.starts_with(begin)) {
                assert_eq!(follow_up, "none", "{name}: what could follow? {line}");
                continue;
            }
            for_the_broker += 1;
            let known = NOT_SERVED.iter().find(|(known, _)| *known == reason);
            let (_, key) = known.unwrap_or_else(|| panic!("{name}: no reason known here: {line}"));
            assert!(router::find(*key).is_none(), "{name}: it is served: {line}");
            let mut words = item.split(|c: char| !c.is_alphanumeric() && c != '.');
            let is_served = |word: &str| router::table().iter().any(|route| route.name == word);
            let names_a_served_api = words.any(is_served);
            assert!(!names_a_served_api, "{name}: that API is served: {line}");
            let file = follow_up
                .split_whitespace()
                .find(|word| word.ends_with(".rs"));
            let file =
                file.unwrap_or_else(|| panic!("{name}: the follow-up names no test: {line}"));
            assert!(
                tests.join(file).is_file(),
                "{name}: {file} does not exist: {line}"
            );
        }
        assert!(
            for_the_broker <= MOST_FOR_THE_BROKER,
            "{name}: {for_the_broker}"
        );
    }
    assert_eq!(clients, 9, "clients with a list");
}
