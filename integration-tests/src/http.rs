//! Pages of the broker's metrics listener, as a scraper reads them. Used by tests of those pages and by tests that
//! look at a number.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No page takes longer, on however loaded a machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Asks for a page; its status and its text.
pub fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the metrics listener accepts");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a socket option");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the listener takes a request");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("an answer and the end of the connection");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
    (status, body.to_owned())
}

/// Asks for `/metrics` until the page is as `wanted`, and returns it; panics with `what` when it takes too long.
pub fn metrics_when(port: u16, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
    let began = tokio::time::Instant::now();
    loop {
        let (status, page) = get(port, "/metrics");
        assert_eq!(status, 200);
        if wanted(&page) {
            return page;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "no page within {DEADLINE:?}: {what}"
        );
    }
}

/// The value of a series of a `/metrics` page, named with its labels as the page shows them; `None` when it has none.
pub fn sample(page: &str, series: &str) -> Option<f64> {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    let value = value.parse();
    Some(value.unwrap_or_else(|error| panic!("the value of {series}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_its_whole_name_and_labels() {
        let page = "# TYPE a_total counter\na_total 1\na_total{topic=\"t\"} 2.5\na_total_b 3\n";
        assert_eq!(sample(page, "a_total"), Some(1.0));
        assert_eq!(sample(page, "a_total{topic=\"t\"}"), Some(2.5));
        assert_eq!(sample(page, "a"), None);
    }
}
