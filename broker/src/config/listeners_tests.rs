use super::*;

fn resolved(settings: &[(&'static str, &str)]) -> Result<Listeners, Refused> {
    let mut values = Values::default();
    for (name, value) in settings {
        values.put(name, (*value).to_owned());
    }
    resolve(&values, || "this-machine".to_owned())
}

fn shown(listeners: &[Listener]) -> Vec<String> {
    listeners.iter().map(Listener::to_string).collect()
}

fn problem(settings: &[(&'static str, &str)]) -> String {
    let Refused { name, problem } = resolved(settings).expect_err("refused");
    format!("{name}: {problem}")
}

#[test]
fn without_settings_it_listens_on_loopback() {
    let listeners = resolved(&[]).unwrap();
    assert_eq!(shown(&listeners.listeners), ["PLAINTEXT://127.0.0.1:9092"]);
    assert_eq!(shown(&listeners.advertised), ["PLAINTEXT://127.0.0.1:9092"]);
    assert!(listeners.controllers.is_empty());
}

#[test]
fn a_listener_on_every_interface_is_advertised_by_the_name_of_the_machine() {
    let listeners = resolved(&[("listeners", "PLAINTEXT://:0")]).unwrap();
    assert!(listeners.listeners[0].is_wildcard());
    assert_eq!(shown(&listeners.advertised), ["PLAINTEXT://this-machine:0"]);
}

#[test]
fn each_listener_has_its_advertised_address_in_the_same_order() {
    let listeners = resolved(&[
        ("listeners", "inside://0.0.0.0:19092, outside://[::1]:9092"),
        (
            "advertised.listeners",
            "OUTSIDE://broker.example:443,INSIDE://10.0.0.1:19092",
        ),
        (
            "listener.security.protocol.map",
            "INSIDE:PLAINTEXT,OUTSIDE:plaintext",
        ),
    ])
    .unwrap();
    assert_eq!(
        shown(&listeners.listeners),
        ["INSIDE://0.0.0.0:19092", "OUTSIDE://[::1]:9092"]
    );
    assert_eq!(
        shown(&listeners.advertised),
        ["INSIDE://10.0.0.1:19092", "OUTSIDE://broker.example:443"]
    );
}

#[test]
fn listeners_of_controllers_are_not_opened_and_may_be_advertised() {
    let listeners = resolved(&[
        ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093"),
        (
            "advertised.listeners",
            "PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093",
        ),
        ("controller.listener.names", "CONTROLLER"),
    ])
    .unwrap();
    assert_eq!(shown(&listeners.listeners), ["PLAINTEXT://:9092"]);
    assert_eq!(shown(&listeners.advertised), ["PLAINTEXT://localhost:9092"]);
    assert_eq!(listeners.controllers, ["CONTROLLER"]);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_way_out() {
    let cases: &[(&[(&'static str, &str)], &str)] = &[
        (
            &[("listeners", "127.0.0.1:9092")],
            "listeners: \"127.0.0.1:9092\" must be NAME://host:port",
        ),
        (
            &[("listeners", "PLAINTEXT://h:65536")],
            "must be NAME://host:port",
        ),
        (
            &[("listeners", "PLAINTEXT://h:-1")],
            "must be NAME://host:port",
        ),
        (
            &[("listeners", "PLAINTEXT://::1:9092")],
            "must be NAME://host:port",
        ),
        (
            &[("listeners", "PLAINTEXT://a b:9092")],
            "must be NAME://host:port",
        ),
        (&[("listeners", "://h:9092")], "must be NAME://host:port"),
        (
            &[("listeners", "PLAINTEXT://h:1,")],
            "must be NAME://host:port",
        ),
        (&[("listeners", "")], "listeners: at least one listener"),
        (
            &[("listeners", "SSL://h:9093")],
            "SSL asks for SSL, which is not served yet; only PLAINTEXT is",
        ),
        (
            &[("listeners", "SASL_SSL://h:9093")],
            "SASL_SSL, which is not served yet",
        ),
        (
            &[("listeners", "INSIDE://h:9092")],
            "add INSIDE:PLAINTEXT to listener.security.protocol.map",
        ),
        (
            &[("listeners", "PLAINTEXT://h:1,plaintext://h:2")],
            "PLAINTEXT is named twice",
        ),
        (
            &[
                ("listeners", "PLAINTEXT://h:1,B://g:1"),
                (
                    "listener.security.protocol.map",
                    "PLAINTEXT:PLAINTEXT,B:PLAINTEXT",
                ),
            ],
            "PLAINTEXT and B have the same port 1",
        ),
        (
            &[("listeners", "C://h:1"), ("controller.listener.names", "C")],
            "at least one listener is needed that is not a controller's",
        ),
        (
            &[("listeners", "PLAINTEXT://0.0.0.0:9092")],
            "advertised.listeners: clients cannot connect to 0.0.0.0; set advertised.listeners=PLAINTEXT://<a host name they can reach>:9092",
        ),
        (
            &[("listeners", "PLAINTEXT://[::]:9092")],
            "clients cannot connect to ::",
        ),
        (
            &[("advertised.listeners", "PLAINTEXT://0.0.0.0:9092")],
            "clients cannot connect to 0.0.0.0",
        ),
        (
            &[("advertised.listeners", "OTHER://h:9092")],
            "OTHER is not among the names in listeners",
        ),
        (
            &[("listener.security.protocol.map", "PLAINTEXT:TLS")],
            "must be NAME:PROTOCOL",
        ),
        (
            &[("listener.security.protocol.map", "A:SSL,a:SSL")],
            "A has two protocols",
        ),
    ];
    for (settings, expected) in cases {
        let problem = problem(settings);
        assert!(problem.contains(expected), "{settings:?} gave {problem}");
    }
}

#[test]
fn one_port_may_serve_ipv4_and_ipv6() {
    let listeners = resolved(&[
        ("listeners", "A://127.0.0.1:9092,B://[::1]:9092"),
        ("listener.security.protocol.map", "A:PLAINTEXT,B:PLAINTEXT"),
    ]);
    assert_eq!(listeners.unwrap().listeners.len(), 2);
}

#[test]
fn any_text_is_read_or_refused_without_a_panic() {
    let seed = 0x0771a;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let pieces = [
            "PLAINTEXT",
            "://",
            ":",
            "[",
            "]",
            "::",
            "9092",
            ",",
            "0.0.0.0",
            "h",
            " ",
            "é",
            "-1",
            "",
        ];
        let text: String = (0..rng.usize(0..9))
            .map(|_| pieces[rng.usize(0..pieces.len())])
            .collect();
        let _ = resolved(&[("listeners", &text), ("advertised.listeners", &text)]);
    }
}
