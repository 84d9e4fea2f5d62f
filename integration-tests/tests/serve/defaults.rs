//! A start without arguments, in a network of its own, so that its ports are free and disturb nobody.

use ottla_integration_tests::namespace::bash_apart;
use ottla_integration_tests::{Output, TempDir, binaries};

/// Starts `ottla serve` with `$ARGS`, reads its banner into `banner`, runs `then`, stops it, and prints the rest.
fn with_broker(folder: &TempDir, args: &str, then: &str) -> Output {
    let script = format!(
        r#"
        exec 3< <(exec "$OTTLA" serve {args} 2>&1)
        broker=$! banner=() line=
        until [[ $line == *'kcat -C'* ]]; do
            IFS= read -r -t 20 line <&3
            banner+=("$line")
        done
        {then}
        kill -TERM "$broker"
        wait "$broker"
        cat <&3 >&2
        "#
    );
    let run = bash_apart(&script).folder(folder.path());
    run.env("OTTLA", binaries().join("ottla")).succeed()
}

#[test]
fn without_arguments_it_serves_on_loopback_with_its_data_in_the_working_directory() {
    let folder = TempDir::new("defaults");
    let then = r#"
        printf '%s\n' "${banner[@]}"
        # The banner's own proposals, as they stand there.
        eval "${banner[-2]#try: }"
        eval "${banner[-1]}" 2>/dev/null
        kcat -L -b 127.0.0.1:9092 | grep '^  broker 1'
        curl -s http://127.0.0.1:9404/readyz
        ls -A
    "#;
    let output = with_broker(&folder, "", then);
    let lines = output.lines();
    assert!(
        lines[0].starts_with("Ottla ") && lines[0].ends_with(", node 1, data in ./ottla-data"),
        "{output:?}"
    );
    assert_eq!(
        lines[1..],
        [
            "listening on PLAINTEXT 127.0.0.1:9092",
            "metrics on http://127.0.0.1:9404/metrics",
            "try: echo 'key:hello' | kcat -P -b 127.0.0.1:9092 -t greetings -K :",
            "     kcat -C -b 127.0.0.1:9092 -t greetings -e",
            "hello",
            "  broker 1 at 127.0.0.1:9092 (controller)",
            "ready",
            "ottla-data",
        ]
    );
    let log: Vec<&str> = output.stderr.lines().collect();
    assert!(log.iter().all(|line| line.contains(" INFO ")), "{log:?}");
    assert!(folder.path().join("ottla-data/meta.properties").exists());
}

#[test]
fn an_empty_metrics_listener_switches_it_off() {
    let folder = TempDir::new("no-metrics");
    let then = r#"
        printf '%s\n' "${banner[@]}" | grep -c metrics || true
        curl -s http://127.0.0.1:9404/metrics || echo "curl: $?"
        kcat -L -b 127.0.0.1:9092 | grep '^  broker 1'
    "#;
    let output = with_broker(&folder, "--set metrics.listener=", then);
    // 7: connection refused.
    assert_eq!(
        output.lines(),
        ["0", "curl: 7", "  broker 1 at 127.0.0.1:9092 (controller)"]
    );
}
