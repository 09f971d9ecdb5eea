//! Verdicts as people read them: named, kept for a while, handed to whoever follows.
//!
//! ```text
//! ring buffer ─► Event ─ Names::flow ─► Flow ─ Flows::push ─┬─► history (bounded, oldest go first)
//!                                                           └─► subscribers (bounded queues; what does not fit is counted)
//! ```
//!
//! Invariants:
//! - Nobody is waited for: a subscriber that is too slow loses flows, and is told how many.
//! - A subscriber gets the history and then every later flow: none twice, none left out between the two.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::api::{End, Flow, FlowFilter, FlowRequest, Lost, Response};

mod names;

pub use names::{EventClock, Names, PodName};

/// Flows that a node keeps unless it is told otherwise: some megabytes.
pub const HISTORY: usize = 8192;

/// Flows that wait for one subscriber.
const QUEUE: usize = 1024;

/// The history and its subscribers. Shared by the task that reads events and those that serve.
#[derive(Debug)]
pub struct Flows {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    capacity: usize,
    history: VecDeque<Arc<Flow>>,
    subscribers: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    filter: FlowFilter,
    queue: mpsc::Sender<Arc<Flow>>,
    lost: Arc<AtomicU64>,
}

/// One reader's share of the flows.
#[derive(Debug)]
pub struct Subscription {
    history: VecDeque<Arc<Flow>>,
    /// `None`: the history is all that was asked for.
    queue: Option<mpsc::Receiver<Arc<Flow>>>,
    lost: Arc<AtomicU64>,
    /// Taken from the queue while losses had to be told first.
    next: Option<Arc<Flow>>,
}

impl Flows {
    /// A history of at most `capacity` flows.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                capacity,
                history: VecDeque::new(),
                subscribers: Vec::new(),
            }),
        }
    }

    /// Adds a flow.
    pub fn push(&self, flow: Flow) {
        let flow = Arc::new(flow);
        let mut inner = self.lock();
        inner.subscribers.retain(|subscriber| {
            if subscriber.filter.matches(&flow) {
                match subscriber.queue.try_send(Arc::clone(&flow)) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        subscriber.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => return false,
                }
            }
            true
        });
        while inner.history.len() >= inner.capacity.max(1) {
            inner.history.pop_front();
        }
        inner.history.push_back(flow);
    }

    /// Tells every subscriber of events that the ring buffer had no room for: nobody knows which.
    pub fn lost(&self, count: u64) {
        for subscriber in &self.lock().subscribers {
            subscriber.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// What a client asked for.
    pub fn subscribe(&self, request: &FlowRequest) -> Subscription {
        let mut inner = self.lock();
        let newest = inner
            .history
            .iter()
            .rev()
            .filter(|flow| request.filter.matches(flow))
            .take(request.last.unwrap_or(usize::MAX));
        let mut history: VecDeque<_> = newest.cloned().collect();
        history.make_contiguous().reverse();
        let lost = Arc::new(AtomicU64::new(0));
        let queue = request.follow.then(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            inner.subscribers.push(Subscriber {
                filter: request.filter.clone(),
                queue: sender,
                lost: Arc::clone(&lost),
            });
            receiver
        });
        Subscription {
            history,
            queue,
            lost,
            next: None,
        }
    }

    /// The flows at hand, oldest first.
    pub fn history(&self) -> Vec<Arc<Flow>> {
        self.lock().history.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No user of the lock leaves the lists half changed, so they are sound even after a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self::new(HISTORY)
    }
}

impl Subscription {
    /// The next line for the client: [`Response::Flow`], [`Response::Lost`], at last [`Response::End`] (never while
    /// following). Can be dropped while it waits without losing a flow.
    pub async fn next(&mut self) -> Response {
        if let Some(flow) = self.history.pop_front() {
            return line(&flow);
        }
        if self.next.is_none()
            && let Some(queue) = &mut self.queue
        {
            self.next = queue.recv().await;
        }
        // Losses are told before what came after them.
        let count = self.lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            return Response::Lost(Lost { count });
        }
        self.next.take().map_or(Response::End, |flow| line(&flow))
    }
}

fn line(flow: &Flow) -> Response {
    Response::Flow(Box::new(flow.clone()))
}

impl FlowFilter {
    /// Whether a flow passes.
    pub fn matches(&self, flow: &Flow) -> bool {
        let Self {
            verdicts,
            namespace,
            pod,
            from_pod,
            to_pod,
            direction,
        } = self;
        let (source, destination) = (&flow.source, &flow.destination);
        let in_namespace = |name: &str, end: &End| end.namespace.as_deref() == Some(name);
        (verdicts.is_empty() || verdicts.contains(&flow.verdict))
            && direction.is_none_or(|direction| direction == flow.direction)
            && namespace
                .as_deref()
                .is_none_or(|name| in_namespace(name, source) || in_namespace(name, destination))
            && pod
                .as_deref()
                .is_none_or(|name| is_end(name, source) || is_end(name, destination))
            && from_pod.as_deref().is_none_or(|name| is_end(name, source))
            && to_pod.as_deref().is_none_or(|name| is_end(name, destination))
    }
}

/// Whether `NS/POD`, `POD` or an address names this end.
fn is_end(name: &str, end: &End) -> bool {
    if let Ok(address) = name.parse::<IpAddr>() {
        return end.address == address.to_canonical();
    }
    match name.split_once('/') {
        Some((namespace, pod)) => {
            end.namespace.as_deref() == Some(namespace) && end.pod.as_deref() == Some(pod)
        }
        None => end.pod.as_deref() == Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{API_VERSION, Direction, EndKind, Verdict};

    fn end(name: &str, address: &str) -> End {
        let (namespace, pod) = name.split_once('/').unzip();
        End {
            address: address.parse().unwrap(),
            port: Some(80),
            kind: if pod.is_some() {
                EndKind::Pod
            } else {
                EndKind::World
            },
            namespace: namespace.map(str::to_owned),
            pod: pod.map(str::to_owned),
            node: None,
        }
    }

    fn flow(source: &str, destination: &str, verdict: Verdict) -> Flow {
        Flow {
            api_version: API_VERSION.to_owned(),
            time: jiff::Timestamp::UNIX_EPOCH,
            node: "node-a".to_owned(),
            source: end(source, "10.42.0.2"),
            destination: end(destination, "10.42.0.3"),
            protocol: "TCP".to_owned(),
            icmp: None,
            direction: Direction::Ingress,
            verdict,
            reason: "rule".to_owned(),
            policies: Vec::new(),
            rule: None,
            count: 1,
        }
    }

    fn numbered(flows: &Flows, numbers: std::ops::Range<u64>) {
        for count in numbers {
            flows.push(Flow {
                count,
                ..flow("a/x", "b/y", Verdict::Allowed)
            });
        }
    }

    async fn drain(subscription: &mut Subscription) -> Vec<Response> {
        let mut lines = Vec::new();
        loop {
            let response = subscription.next().await;
            if response == Response::End {
                return lines;
            }
            lines.push(response);
        }
    }

    fn counts(lines: &[Response]) -> Vec<u64> {
        let count = |line: &Response| {
            let Response::Flow(flow) = line else { return None };
            Some(flow.count)
        };
        lines.iter().filter_map(count).collect()
    }

    #[tokio::test]
    async fn the_oldest_flows_go_first() {
        let flows = Flows::new(3);
        numbered(&flows, 0..5);
        let lines = drain(&mut flows.subscribe(&FlowRequest::default())).await;
        assert_eq!(counts(&lines), [2, 3, 4]);
    }

    #[tokio::test]
    async fn last_counts_what_passes_the_filter() {
        let flows = Flows::new(100);
        for verdict in [
            Verdict::Denied,
            Verdict::Denied,
            Verdict::Denied,
            Verdict::Allowed,
        ] {
            flows.push(flow("a/x", "b/y", verdict));
        }
        let request = FlowRequest {
            last: Some(2),
            filter: FlowFilter {
                verdicts: vec![Verdict::Denied],
                ..FlowFilter::default()
            },
            ..FlowRequest::default()
        };
        assert_eq!(drain(&mut flows.subscribe(&request)).await.len(), 2);
    }

    #[tokio::test]
    async fn a_follower_gets_the_history_then_what_happens() {
        let flows = Flows::new(100);
        numbered(&flows, 0..3);
        let mut subscription = flows.subscribe(&FlowRequest {
            follow: true,
            last: Some(2),
            ..FlowRequest::default()
        });
        numbered(&flows, 3..5);
        let mut lines = Vec::new();
        for _ in 0..4 {
            lines.push(subscription.next().await);
        }
        assert_eq!(counts(&lines), [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_lost() {
        let flows = Flows::new(1);
        let mut subscription = flows.subscribe(&FlowRequest {
            follow: true,
            last: Some(0),
            ..FlowRequest::default()
        });
        let queue = QUEUE as u64;
        numbered(&flows, 0..queue + 7);
        flows.lost(5);
        assert_eq!(subscription.next().await, Response::Lost(Lost { count: 12 }));
        let mut lines = Vec::new();
        for _ in 0..queue {
            lines.push(subscription.next().await);
        }
        assert_eq!(counts(&lines), (0..queue).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn who_went_away_is_forgotten() {
        let flows = Flows::new(1);
        drop(flows.subscribe(&FlowRequest {
            follow: true,
            ..FlowRequest::default()
        }));
        numbered(&flows, 0..1);
        assert!(flows.lock().subscribers.is_empty());
    }

    #[test]
    fn every_field_of_the_filter_must_hold() {
        let denied = flow("shop/web", "shop/db", Verdict::Denied);
        let out = flow("shop/web", "world", Verdict::Allowed);
        let some = |s: &str| Some(s.to_owned());
        let all = FlowFilter::default;
        for (filter, first, second) in [
            (all(), true, true),
            (
                FlowFilter {
                    verdicts: vec![Verdict::Denied],
                    ..all()
                },
                true,
                false,
            ),
            (
                FlowFilter {
                    verdicts: vec![Verdict::Denied, Verdict::Allowed],
                    ..all()
                },
                true,
                true,
            ),
            (
                FlowFilter {
                    namespace: some("shop"),
                    ..all()
                },
                true,
                true,
            ),
            (
                FlowFilter {
                    namespace: some("other"),
                    ..all()
                },
                false,
                false,
            ),
            (
                FlowFilter {
                    pod: some("shop/db"),
                    ..all()
                },
                true,
                false,
            ),
            (
                FlowFilter {
                    pod: some("db"),
                    ..all()
                },
                true,
                false,
            ),
            (
                FlowFilter {
                    pod: some("other/db"),
                    ..all()
                },
                false,
                false,
            ),
            (
                FlowFilter {
                    from_pod: some("shop/web"),
                    ..all()
                },
                true,
                true,
            ),
            (
                FlowFilter {
                    from_pod: some("shop/db"),
                    ..all()
                },
                false,
                false,
            ),
            (
                FlowFilter {
                    to_pod: some("10.42.0.3"),
                    ..all()
                },
                true,
                true,
            ),
            (
                FlowFilter {
                    to_pod: some("10.42.0.2"),
                    ..all()
                },
                false,
                false,
            ),
            (
                FlowFilter {
                    direction: Some(Direction::Egress),
                    ..all()
                },
                false,
                false,
            ),
            (
                FlowFilter {
                    verdicts: vec![Verdict::Denied],
                    namespace: some("other"),
                    ..all()
                },
                false,
                false,
            ),
        ] {
            assert_eq!(filter.matches(&denied), first, "{filter:?}");
            assert_eq!(filter.matches(&out), second, "{filter:?}");
        }
    }
}
