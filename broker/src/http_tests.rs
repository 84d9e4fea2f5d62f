//! Round trips over loopback. Nothing sleeps: a test waits for the answer or for the end of the connection, under one
//! generous deadline.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::{Detail, PartitionFacts, PartitionSource};

const HOUR: Duration = Duration::from_secs(3_600);
/// The bounds of production without those on time, so that no test passes because something was merely cut off.
const UNHURRIED: Limits = Limits {
    head_time: HOUR,
    connection_time: HOUR,
    grace: HOUR,
    ..LIMITS
};

/// A broker that is as ready as the test says.
struct Broker(Mutex<Result<(), String>>);

impl HealthSource for Broker {
    fn ready(&self) -> Result<(), String> {
        self.0.lock().unwrap().clone()
    }
}

/// A running listener.
struct Server {
    address: SocketAddr,
    metrics: Metrics,
    broker: Arc<Broker>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let (listener, address) = bind("127.0.0.1:0").await.unwrap();
        let metrics = Metrics::new(Detail::Partition);
        let broker = Arc::new(Broker(Mutex::new(Ok(()))));
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve_within(
            limits,
            listener,
            metrics.clone(),
            broker.clone(),
            stop.clone(),
        ));
        Self {
            address,
            metrics,
            broker,
            stop,
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes` and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn request(&self, method: &str, path: &str) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        Answer::parse(&self.exchange(head.as_bytes()).await)
    }

    /// A client that asks for a page of 25 MB, which fits into no socket buffer, and does not read. The page has it
    /// while the source is held.
    async fn stuck_client(&self) -> (TcpStream, Arc<Many>) {
        let source = Arc::new(Many(20_000));
        self.metrics.watch_partitions(&source);
        let mut stuck = self.connect().await;
        stuck
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        (stuck, source)
    }

    async fn end(self) {
        self.stop.cancel();
        within(self.task).await.unwrap();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect(text);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines();
        lines
            .filter_map(|line| line.split_once(": "))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
    }
}

/// What arrives until the connection ends, by a close or a reset.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end as good as any.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).unwrap()
}

/// Far longer than anything here may take, so that a hanging test fails.
async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("too slow")
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_text() {
    let server = Server::start(UNHURRIED).await;
    server.metrics.topic("orders").appended(3, 100);
    let answer = server.request("GET", "/metrics").await;
    assert_eq!(answer.status, 200);
    let kind = Some("text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(answer.header("content-type"), kind);
    assert_eq!(
        answer.header("content-length"),
        Some(&*answer.body.len().to_string())
    );
    let line = "\nkafka_server_brokertopicmetrics_messagesin_total{topic=\"orders\"} 3\n";
    assert!(answer.body.contains(line), "{}", answer.body);
    server.end().await;
}

#[tokio::test]
async fn health_is_ok_and_readiness_follows_the_broker() {
    let server = Server::start(UNHURRIED).await;
    let ready = server.request("GET", "/readyz").await;
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    *server.broker.0.lock().unwrap() = Err("replaying the log".to_owned());
    let unready = server.request("GET", "/readyz").await;
    assert_eq!(
        (unready.status, &*unready.body),
        (503, "replaying the log\n")
    );
    let health = server.request("GET", "/healthz").await;
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
    server.end().await;
}

#[tokio::test]
async fn head_answers_without_a_body() {
    let server = Server::start(UNHURRIED).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let answer = server.request("HEAD", path).await;
        assert_eq!((answer.status, &*answer.body), (200, ""), "{path}");
        assert_ne!(answer.header("content-length"), Some("0"), "{path}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_query_does_not_matter_and_other_paths_and_methods_are_refused() {
    let server = Server::start(UNHURRIED).await;
    assert_eq!(
        server.request("GET", "/healthz?verbose=1").await.status,
        200
    );
    for path in ["/", "/metrics/", "/healthz/../metrics", "/METRICS"] {
        assert_eq!(server.request("GET", path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = server.request(method, "/metrics").await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("get, head"), "{method}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_connection_carries_one_request() {
    let server = Server::start(UNHURRIED).await;
    let twice = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2);
    let text = server.exchange(twice.as_bytes()).await;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 1, "{text}");
    assert_eq!(Answer::parse(&text).header("connection"), Some("close"));
    server.end().await;
}

#[tokio::test]
async fn a_client_that_stops_sending_still_gets_its_answer() {
    let server = Server::start(UNHURRIED).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let text = read_to_end(&mut stream).await;
    // The page is written on another thread, so that the end of the requests is seen first.
    assert_eq!(Answer::parse(&text).status, 200);
    assert!(text.ends_with('\n'));
    server.end().await;
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let server = Server::start(UNHURRIED).await;
    let mut stream = server.connect().await;
    let (mut reader, mut writer) = stream.split();
    // Without an end, so that whatever was accepted of it would be waited for.
    let head = format!(
        "GET /metrics HTTP/1.1\r\nx: {}",
        "x".repeat(10 * 1024 * 1024)
    );
    let mut answer = Vec::new();
    let (written, read) = within(async {
        tokio::join!(
            writer.write_all(head.as_bytes()),
            reader.read_to_end(&mut answer)
        )
    })
    .await;
    // The refusal itself can be lost to the reset that the unread rest causes.
    let text = String::from_utf8(answer).unwrap();
    assert!(
        text.is_empty() || Answer::parse(&text).status == 431,
        "{text}"
    );
    assert!(written.is_err() || read.is_err() || !text.is_empty());
    assert_eq!(server.request("GET", "/healthz").await.status, 200);
    server.end().await;
}

#[tokio::test]
async fn a_head_below_the_limit_is_read() {
    let server = Server::start(UNHURRIED).await;
    let padding = "x".repeat(60 * 1024);
    let head = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {padding}\r\n\r\n");
    let text = server.exchange(head.as_bytes()).await;
    assert_eq!(Answer::parse(&text).status, 200);
    server.end().await;
}

#[tokio::test]
async fn what_is_not_http_is_closed() {
    let server = Server::start(UNHURRIED).await;
    let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let api_versions: &[u8] = b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff";
    for bytes in [hello, api_versions, b"\0\0\0\0\r\n\r\n"] {
        let text = server.exchange(bytes).await;
        assert!(
            text.is_empty() || Answer::parse(&text).status == 400,
            "{text}"
        );
    }
    server.end().await;
}

#[tokio::test]
async fn a_slow_or_silent_head_is_cut_off() {
    assert_eq!(LIMITS.head_time, Duration::from_secs(2));
    let server = Server::start(Limits {
        head_time: Duration::from_millis(30),
        ..UNHURRIED
    })
    .await;
    for begun in ["", "GET /met", "GET /metrics HTTP/1.1\r\nhost: a\r\n"] {
        let text = server.exchange(begun.as_bytes()).await;
        assert!(!text.contains("200 OK"), "{begun:?}: {text}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_connection_ends_even_if_its_client_reads_nothing() {
    let server = Server::start(Limits {
        connections: 1,
        connection_time: Duration::from_millis(50),
        ..UNHURRIED
    })
    .await;
    let (mut stuck, _source) = server.stuck_client().await;
    // Only one connection is served at a time: this one's end, whatever the answer, comes after the stuck one's.
    server
        .exchange(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let received = read_to_end(&mut stuck).await;
    assert!(received.len() < 20_000_000, "{} bytes", received.len());
    server.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let server = Server::start(Limits {
        connections: 2,
        ..UNHURRIED
    })
    .await;
    let (first, second) = (server.connect().await, server.connect().await);
    let mut third = server.connect().await;
    third
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    // The runtime has one thread: after a hundred turns whatever could be served would be.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let early = third.try_read(&mut [0; 1]);
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop((first, second));
    assert_eq!(Answer::parse(&read_to_end(&mut third).await).status, 200);
    server.end().await;
}

/// Healthy partitions of one topic.
struct Many(i32);

impl PartitionSource for Many {
    fn for_each(&self, tell: &mut dyn FnMut(PartitionFacts<'_>)) {
        for partition in 0..self.0 {
            tell(PartitionFacts {
                topic: "a topic with a long name, so that the page has some weight",
                partition,
                log_start: 0,
                log_end: 10,
                high_watermark: 10,
                last_stable: 10,
                size_bytes: 100,
                leader: 1,
                node_id: 1,
                replicas: &[1],
                isr: &[1],
                min_isr: 1,
                producers: 0,
            });
        }
    }
}

#[tokio::test]
async fn a_large_page_arrives_whole_and_many_scrapes_take_turns() {
    let server = Server::start(Limits { pages: 1, ..LIMITS }).await;
    let source = Arc::new(Many(2_000));
    server.metrics.watch_partitions(&source);
    let scrape = || server.request("GET", "/metrics");
    let (a, b, c) = tokio::join!(scrape(), scrape(), scrape());
    for answer in [a, b, c] {
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("content-length"),
            Some(&*answer.body.len().to_string())
        );
        assert_eq!(
            answer.body.matches("\nkafka_log_log_logendoffset{").count(),
            2_000
        );
        assert!(answer.body.ends_with('\n'));
    }
    server.end().await;
}

#[tokio::test]
async fn a_panicking_source_costs_one_answer_and_is_counted() {
    struct Broken(AtomicBool);
    impl PartitionSource for Broken {
        fn for_each(&self, _: &mut dyn FnMut(PartitionFacts<'_>)) {
            assert!(!self.0.swap(false, SeqCst), "broken on purpose");
        }
    }
    let server = Server::start(UNHURRIED).await;
    let source = Arc::new(Broken(AtomicBool::new(true)));
    server.metrics.watch_partitions(&source);
    assert_eq!(server.request("GET", "/metrics").await.status, 500);
    let next = server.request("GET", "/metrics").await;
    assert_eq!(next.status, 200);
    assert!(next.body.contains("\nottla_panics_total 1\n"));
    server.end().await;
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_the_port() {
    let server = Server::start(UNHURRIED).await;
    let mut idle = server.connect().await;
    // One answered request shows that the connection before it was accepted.
    assert_eq!(server.request("GET", "/healthz").await.status, 200);
    let address = server.address;
    server.end().await;
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_answer_that_has_begun_is_finished_when_stopping() {
    let server = Server::start(UNHURRIED).await;
    let source = Arc::new(Many(5_000));
    server.metrics.watch_partitions(&source);
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut start = [0; 4];
    within(stream.read_exact(&mut start)).await.unwrap();
    server.stop.cancel();
    let rest = read_to_end(&mut stream).await;
    let answer = Answer::parse(&format!("HTTP{rest}"));
    assert_eq!(
        answer.header("content-length"),
        Some(&*answer.body.len().to_string())
    );
    server.end().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_client_that_reads_nothing() {
    let server = Server::start(Limits {
        grace: Duration::from_millis(30),
        ..UNHURRIED
    })
    .await;
    let (mut stuck, _source) = server.stuck_client().await;
    let mut start = [0; 4];
    within(stuck.read_exact(&mut start)).await.unwrap();
    server.end().await;
}
