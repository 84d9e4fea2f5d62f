//! Listeners: accept, count, limit, and hand each connection to `connection.rs`, and on to a network thread once it has records.
//! Started by `start.rs`.
//!
//! A connection that panics ends alone and raises a counter. Refusing a new connection never touches an old one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use ottla_protocol::frame::FrameLimits;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Broker;
use crate::config::{Config, LiveConfig};
use crate::connection::Connection;
use crate::metrics::OpenConnection;
use crate::network_threads::{NetworkThreads, Place};
use crate::rate_limit::RateLimit;
use crate::router::{Listener, Origin};

/// After a failed accept, for instance without file descriptors left, this long until the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ends of a connection that are part of normal life.
const ORDINARY_ENDS: [&str; 5] = [
    "closed_by_client",
    "shutdown",
    "idle",
    "read_error",
    "write_error",
];

/// All connections of all listeners.
#[derive(Debug)]
pub struct Connections {
    limits: Arc<LiveConfig>,
    counts: Mutex<Counts>,
    log: RateLimit,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
    second: u64,
    in_second: usize,
}

/// A counted connection; uncounted when dropped.
#[derive(Debug)]
struct Counted {
    connections: Arc<Connections>,
    ip: IpAddr,
}

impl Connections {
    /// No connections yet. Limits that change apply to the next connection; those that are open stay.
    pub fn new(limits: Arc<LiveConfig>) -> Self {
        Self {
            limits,
            counts: Mutex::default(),
            log: RateLimit::new(),
        }
    }

    /// Counts a new connection, or says which limit it meets.
    fn admit(self: &Arc<Self>, ip: IpAddr, second: u64) -> Result<Counted, &'static str> {
        // An IPv4 peer counts the same through an IPv6 socket.
        let ip = ip.to_canonical();
        let limits = self.limits.current();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.second != second {
            counts.second = second;
            counts.in_second = 0;
        }
        if counts.total >= limits.max_connections {
            return Err("max_connections");
        }
        if counts.in_second >= limits.max_connection_creation_rate {
            return Err("max_connection_creation_rate");
        }
        let of_ip = counts.by_ip.get(&ip).copied().unwrap_or(0);
        if of_ip >= limits.max_connections_per_ip {
            return Err("max_connections_per_ip");
        }
        counts.total += 1;
        counts.in_second += 1;
        counts.by_ip.insert(ip, of_ip + 1);
        Ok(Counted {
            connections: self.clone(),
            ip,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self
            .connections
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(of_ip) = counts.by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                counts.by_ip.remove(&self.ip);
            }
        }
    }
}

/// Accepts until `stop`; every connection is a task of `tasks`, and moves to one of the `network` threads for its records.
pub async fn accept(
    broker: Arc<Broker>,
    socket: TcpListener,
    listener: Arc<Listener>,
    connections: Arc<Connections>,
    network: Arc<NetworkThreads>,
    (tasks, stop): (TaskTracker, CancellationToken),
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Old connections go on; new ones wait in the backlog.
                broker.metrics.refused("accept_error");
                if let Some(more) = connections.log.admit("accept_error", broker.env.now_ms()) {
                    tracing::warn!(%error, more, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match connections.admit(peer.ip(), broker.env.monotonic().as_secs()) {
            Ok(counted) => {
                let origin = Origin {
                    broker: broker.clone(),
                    listener: listener.clone(),
                    peer,
                };
                let (network, of_network) = (network.clone(), tasks.clone());
                let stop = stop.clone();
                tasks.spawn(async move {
                    let accepted = Accepted::new(stream, origin, counted, stop);
                    if let Some(accepted) = accepted.serve_until_records().await {
                        network.serve(&of_network, |place| accepted.serve_records(place));
                    }
                });
            }
            Err(limit) => {
                broker.metrics.refused(limit);
                if let Some(more) = connections.log.admit(limit, broker.env.now_ms()) {
                    tracing::warn!(%peer, limit, more, "connection refused");
                }
            }
        }
    }
}

/// A connection that was let in.
struct Accepted {
    connection: Connection,
    broker: Arc<Broker>,
    peer: SocketAddr,
    counted: Counted,
    _open: OpenConnection,
}

impl Accepted {
    /// In a box: a future holds twice what is moved into it.
    fn new(
        stream: TcpStream,
        origin: Origin,
        counted: Counted,
        stop: CancellationToken,
    ) -> Box<Self> {
        let broker = origin.broker.clone();
        let peer = origin.peer;
        let open = broker.metrics.connection(&origin.listener.name);
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot switch off delayed sending");
        }
        let socket = socket2::SockRef::from(&stream);
        // Otherwise a peer that vanished without a word is never noticed while its fetch is parked.
        if let Err(error) = socket.set_keepalive(true) {
            tracing::debug!(%peer, %error, "cannot watch for a vanished peer");
        }
        if let Err(error) = set_buffers(&socket, &broker.config) {
            tracing::debug!(%peer, %error, "cannot set the size of a socket's buffers");
        }
        if let Err(error) = do_not_pace_on_this_host(&stream) {
            tracing::debug!(%peer, %error, "answers to a client on this host stay paced");
        }
        let limits = FrameLimits::new(broker.config.socket_request_max_bytes);
        let idle = broker
            .config
            .connections_max_idle_ms
            .map_or(Duration::MAX, Duration::from_millis);
        Box::new(Self {
            connection: Connection::new(stream, origin, limits, idle, stop),
            broker,
            peer,
            counted,
            _open: open,
        })
    }

    /// To its end, or until it has something to produce or fetch.
    async fn serve_until_records(mut self: Box<Self>) -> Option<Box<Self>> {
        match self.serve(true).await {
            Some(cause) => self.ended(cause),
            None => return Some(self),
        }
        None
    }

    /// To its end, on the thread that it runs on.
    async fn serve_records(mut self: Box<Self>, _place: Place) {
        if let Err(error) = self.connection.settle() {
            let peer = self.peer;
            tracing::debug!(%peer, %error, "another thread waits for a connection's socket");
        }
        if let Some(cause) = self.serve(false).await {
            self.ended(cause);
        }
    }

    async fn serve(&mut self, until_records: bool) -> Option<&'static str> {
        let served = self.connection.serve(until_records);
        let served = AssertUnwindSafe(served).catch_unwind().await;
        served.unwrap_or_else(|_| {
            self.broker.metrics.panicked();
            tracing::error!(peer = %self.peer, "a connection's task panicked");
            Some("panic")
        })
    }

    fn ended(&self, cause: &'static str) {
        let (broker, peer) = (&self.broker, self.peer);
        if ORDINARY_ENDS.contains(&cause) {
            tracing::debug!(%peer, cause, "connection ended");
            return;
        }
        broker.metrics.refused(cause);
        let log = &self.counted.connections.log;
        if let Some(more) = log.admit(cause, broker.env.now_ms()) {
            tracing::info!(%peer, cause, more, "connection closed");
        }
    }
}

/// BBR sends by a timer for each 64 KiB, which between two processes of one host costs twice the processor's time and gains
/// nothing: there is no network to share. Reno is in every kernel, and without losses it never slows down.
fn do_not_pace_on_this_host(stream: &TcpStream) -> std::io::Result<()> {
    if stream.peer_addr()?.ip() != stream.local_addr()?.ip() {
        return Ok(());
    }
    if sockopt::tcp_congestion(stream)?.starts_with("bbr") {
        sockopt::set_tcp_congestion(stream, "reno")?;
    }
    Ok(())
}

/// Where sizes are configured: small buffers bound what a client that does not read costs.
fn set_buffers(socket: &socket2::SockRef<'_>, config: &Config) -> std::io::Result<()> {
    if let Some(bytes) = config.socket_send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = config.socket_receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, DynamicConfig};

    fn config(max: usize, per_ip: usize, per_second: usize) -> Config {
        let sets = [
            format!("max.connections={max}"),
            format!("max.connections.per.ip={per_ip}"),
            format!("max.connection.creation.rate={per_second}"),
        ];
        let loaded = Config::load(None, std::iter::empty(), &sets);
        loaded.expect("a config").config
    }

    fn connections(max: usize, per_ip: usize, per_second: usize) -> Arc<Connections> {
        let live = LiveConfig::new(&config(max, per_ip, per_second));
        Arc::new(Connections::new(Arc::new(live)))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn answers_are_not_paced_on_this_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        for client in ["127.0.0.1:0", "127.0.0.2:0"] {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(client.parse().expect("parses")).expect("binds");
            let (theirs, accepted) = tokio::join!(socket.connect(address), listener.accept());
            let (_theirs, ours) = (theirs.expect("connects"), accepted.expect("accepts").0);
            let now = || sockopt::tcp_congestion(&ours).expect("tells");
            // Where the kernel has it.
            let paced = sockopt::set_tcp_congestion(&ours, "bbr").is_ok();
            let before = now();
            do_not_pace_on_this_host(&ours).expect("is set");
            let expected = if paced && client.starts_with("127.0.0.1") {
                "reno"
            } else {
                &before
            };
            assert_eq!(now(), expected, "{client}");
        }
    }

    #[test]
    fn limits_hold_and_end_with_the_connections() {
        let connections = connections(3, 2, 100);
        let first = connections.admit(ip("10.0.0.1"), 0).expect("room");
        let _second = connections.admit(ip("::ffff:10.0.0.1"), 0).expect("room");
        assert_eq!(
            connections.admit(ip("10.0.0.1"), 0).err(),
            Some("max_connections_per_ip")
        );
        let _third = connections.admit(ip("10.0.0.2"), 0).expect("room");
        assert_eq!(
            connections.admit(ip("10.0.0.3"), 0).err(),
            Some("max_connections")
        );
        drop(first);
        assert!(connections.admit(ip("10.0.0.1"), 0).is_ok());
    }

    #[test]
    fn limits_that_change_apply_to_the_next_connection() {
        let connections = connections(1, 1, 100);
        let _first = connections.admit(ip("10.0.0.1"), 0).expect("room");
        assert!(connections.admit(ip("10.0.0.2"), 0).is_err());
        let all = BTreeMap::from([("max.connections".to_owned(), "2".to_owned())]);
        let dynamic = DynamicConfig::resolve(&config(1, 1, 100), &BTreeMap::new(), &all);
        connections.limits.replace(Arc::new(dynamic));
        let _second = connections.admit(ip("10.0.0.2"), 0).expect("room");
        assert_eq!(
            connections.admit(ip("10.0.0.1"), 0).err(),
            Some("max_connections")
        );
    }

    #[test]
    fn the_rate_counts_anew_every_second() {
        let connections = connections(100, 100, 2);
        let held: Vec<_> = (0..2)
            .map(|_| connections.admit(ip("10.0.0.1"), 7).expect("room"))
            .collect();
        assert_eq!(
            connections.admit(ip("10.0.0.1"), 7).err(),
            Some("max_connection_creation_rate")
        );
        assert!(connections.admit(ip("10.0.0.1"), 8).is_ok());
        drop(held);
    }
}
