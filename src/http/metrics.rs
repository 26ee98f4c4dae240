//! Metrics in the text format of Prometheus (OpenMetrics), collected when they are asked for: the components count, and
//! nothing is kept twice.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use actix_web::{HttpResponse, web::Data};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{Problem, answer::Shared, frontend::Frontend, identity::Admin};
use crate::{
    hub::Reason,
    node::Node,
    telemetry,
    unsent::{Share, Why},
};

/// Figures of the node.
#[utoipa::path(get, path = "/metrics", tag = "operating",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(node: Data<Node>, frontend: Data<Frontend>, _: Admin) -> Result<HttpResponse, Problem> {
    let text = match frontend.requests.scrapes.last(&node.unsent) {
        Some(text) => text,
        None => scrape(&node, &frontend)?,
    };
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut response = HttpResponse::Ok().content_type(media).body(text.bytes().clone());
    response.extensions_mut().insert(Shared(text));
    Ok(response)
}

fn scrape(node: &Node, frontend: &Frontend) -> Result<Arc<Share>, Problem> {
    let mut registry = Registry::with_prefix("millstream");
    registry.register_collector(Box::new(Figures(node.clone(), frontend.clone())));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| Problem::unavailable("the metrics cannot be written", 5))?;
    let text = node.unsent.share(text.into());
    frontend.requests.scrapes.keep(&text);
    Ok(text)
}

struct Figures(Node, Frontend);

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self(node, frontend) = self;
        for (name, help, value) in counters(node) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in gauges(node, frontend) {
            let gauge = ConstGauge::new(value as f64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let (hub, jobs, webhooks) = (node.hub.counters(), node.jobs.stats(), node.webhooks.stats());
        let closed = Reason::ALL.map(|reason| (reason.as_str().to_owned(), hub.closed(reason)));
        family(&mut encoder, "streams_closed", "Streams closed, by reason.", "reason", &closed)?;
        let refused: Vec<_> = webhooks.refused.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        family(&mut encoder, "webhook_refusals", "Deliveries to webhooks that were refused.", "reason", &refused)?;
        let classes = frontend.requests.by_class().map(|(class, count)| (class.to_owned(), count));
        family(&mut encoder, "http_responses", "Responses, by class of status.", "class", &classes)?;
        let ended = Why::ALL.map(|why| (why.as_str().to_owned(), node.unsent.ended(why)));
        family(
            &mut encoder,
            "answers_ended",
            "Answers and connections ended because their clients took too little, by reason.",
            "reason",
            &ended,
        )?;
        let limited = node.limits.refused().map(|(limit, count)| (limit.to_owned(), count));
        family(&mut encoder, "limited", "What limits refused, by setting.", "limit", &limited)?;
        in_sum(node, &mut encoder)?;
        let ended = jobs.jobs_ended.by_status().map(|(status, count)| (status.to_owned(), count));
        family(&mut encoder, "jobs_ended", "Jobs that ended, by status.", "status", &ended)
    }
}

/// Encodes the metrics of shares and of the job memory budget.
fn in_sum(node: &Node, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let shares = [
        ("jobs", node.jobs.stats().shares_refused),
        ("relays", node.relays.stats().shares_refused),
        ("upstreams", node.connections.figures().over_share),
    ];
    let shares = shares.map(|(pool, count)| (pool.to_owned(), count));
    let help = "Times that a user had its share (share_percent), by pool.";
    family(encoder, "shares_refused", help, "pool", &shares)?;
    let held = node.memory.figures().map(|(part, figures)| (part.to_owned(), figures.held));
    let help = "Bytes that specs and answers take of max_memory_bytes, by part.";
    gauges_by(encoder, "memory_reserved_bytes", help, "part", &held)?;
    let waiting = node.memory.figures().map(|(part, figures)| (part.to_owned(), figures.waiting));
    let help = "Specs and answers that wait for room in max_memory_bytes, by part.";
    gauges_by(encoder, "memory_waiting", help, "part", &waiting)
}

/// Name without prefix and suffix, meaning, value.
type Figure = (&'static str, &'static str, u64);

fn counters(node: &Node) -> Vec<Figure> {
    let (hub, journal, jobs) = (node.hub.counters(), node.journal.stats(), node.jobs.stats());
    let webhooks = node.webhooks.stats();
    let (relays, upstream) = (node.relays.stats(), node.connections.figures());
    vec![
        ("streams_opened", "Streams opened.", hub.opened.load(Relaxed)),
        ("events_delivered", "Events put into outboxes of emitters.", hub.delivered.load(Relaxed)),
        ("events_dropped", "Events that overflow policies dropped.", hub.dropped.load(Relaxed)),
        ("emitters_lagged", "Times a full outbox sent an emitter to the journal.", hub.lagged.load(Relaxed)),
        ("gaps", "Gap frames sent.", hub.gaps.load(Relaxed)),
        (
            "filters_failed",
            "Times a filter could not be applied to an emitter: a key was missing, or of another type.",
            hub.filters_failed.load(Relaxed),
        ),
        ("heartbeats", "Heartbeats sent.", hub.heartbeats.load(Relaxed)),
        ("clock_jumps", "Jumps of the wall clock that were followed.", node.clock.jumps()),
        ("journal_events_appended", "Events appended.", journal.appended),
        ("journal_events_trimmed", "Events that retention let go.", journal.trimmed),
        ("journal_commits", "Commits to the disk; each holds all that waited.", journal.commits),
        ("jobs_accepted", "Jobs accepted.", jobs.jobs_accepted),
        ("jobs_taken_up", "Unfinished jobs taken up again at the start.", jobs.jobs_taken_up),
        ("job_records_unreadable", "Records of jobs that could not be read at the start.", jobs.records_unreadable),
        ("tasks_succeeded", "Tasks that ended with a result.", jobs.tasks_succeeded),
        ("tasks_failed", "Tasks that ended with an error.", jobs.tasks_failed),
        ("task_retries", "Attempts that followed a failed one.", jobs.task_retries),
        ("task_duration_milliseconds", "Sum of the durations of ended tasks.", jobs.task_duration_ms_sum),
        ("relay_events", "Events that relays have appended.", relays.events),
        ("relay_events_skipped", "Events of sources that were told of and not kept.", relays.skipped),
        ("relay_reconnects", "Connections of relays after the first one of a source.", relays.reconnects),
        ("relay_doubles_dropped", "Events that came again after a reconnect.", relays.doubles_dropped),
        ("relay_loops_dropped", "Events that came back to where they had been.", relays.loops_dropped),
        ("relay_sources_failed", "Sources of relays that were given up.", relays.sources_failed),
        ("relay_records_unreadable", "Records of relays that could not be read.", relays.records_unreadable),
        ("upstream_streams_opened", "Upstream streams opened.", upstream.opened),
        ("upstream_streams_refused", "Times that there was no place for an upstream stream.", upstream.refused),
        ("upstream_bytes", "Bytes read from upstream streams.", upstream.bytes),
        ("upstream_events", "Events read from upstream streams.", upstream.events),
        ("webhook_deliveries", "Deliveries to webhooks that became events.", webhooks.accepted),
        ("webhook_duplicates", "Deliveries to webhooks that had come before.", webhooks.duplicates),
        (
            "heads_timed_out",
            "Connections cut because a request's head, or a TLS handshake, did not come.",
            node.heads.cut(),
        ),
        ("part_restarts", "Times that a part of the node failed and began again.", node.supervisor.restarts()),
        (
            "log_lines_dropped",
            "Log lines that were lost: stderr took them too slowly, or not at all.",
            telemetry::lines_dropped(),
        ),
        ("journal_duplicates", "Events not appended because their publisher had sent them before.", journal.duplicates),
    ]
}

fn gauges(node: &Node, frontend: &Frontend) -> Vec<Figure> {
    let (hub, journal, jobs) = (node.hub.counters(), node.journal.stats(), node.jobs.stats());
    let (relays, upstream) = (node.relays.stats(), node.connections.figures());
    vec![
        ("connections", "Open connections.", frontend.connections.open() as u64),
        ("connections_limit", "Most connections at once (max_connections).", frontend.connections.limit() as u64),
        ("unsent_bytes", "Bytes of answers that wait for their clients.", node.unsent.bytes() as u64),
        ("unsent_bytes_limit", "Most of them (max_unsent_bytes).", node.unsent.max_bytes() as u64),
        (
            "http2_requests_answering",
            "Requests of HTTP/2 of whose answer nothing is there yet.",
            node.unsent.begun() as u64,
        ),
        ("streams_open", "Open streams.", hub.open()),
        ("requests_waiting", "Requests that wait for an event (`wait=`).", frontend.polls.waiting() as u64),
        ("journal_events", "Events kept.", journal.events),
        ("journal_bytes", "Bytes of the events kept.", journal.bytes),
        ("journal_pinned_bytes", "Bytes of job histories, which retention leaves alone.", journal.pinned_bytes),
        ("journal_topics", "Topics known.", journal.topics),
        ("journal_records", "Records kept.", journal.records),
        ("journal_record_bytes", "Bytes of the records.", journal.record_bytes),
        ("journal_disk_bytes", "Bytes of the journal on disk.", journal.disk_bytes),
        ("journal_queued_bytes", "Bytes that wait to be written.", journal.queued_bytes),
        ("journal_refusing", "1 while the disk takes no more events.", u64::from(journal.refusing)),
        ("jobs_running", "Jobs that have not ended.", jobs.jobs_running),
        ("jobs_kept", "Jobs that have ended and are kept.", jobs.jobs_kept),
        ("tasks_running", "Attempts that run.", jobs.tasks_running),
        ("unfinished_tasks", "Tasks of jobs that have not ended (max_running_tasks).", jobs.unfinished_tasks),
        ("tasks_queued", "Tasks that wait for a slot.", jobs.tasks_queued),
        ("remote_jobs", "Jobs on remotes that run tasks of jobs here.", jobs.remote_jobs),
        ("job_events_pending", "Events of jobs that wait for the journal.", jobs.events_pending),
        ("relays_running", "Relays that have not ended.", relays.relays_running),
        ("relays_kept", "Relays that have ended and are kept.", relays.relays_kept),
        ("upstream_streams_open", "Upstream streams that are open.", upstream.open),
        ("upstream_streams_limit", "Most upstream streams at once (max_upstreams).", upstream.limit),
        ("limited_callers", "Callers whose rate or places are kept, over all limits.", node.limits.callers() as u64),
        ("ready", "1 while the node takes work.", u64::from(node.trouble().is_none())),
    ]
}

/// Counters of one name, a row for each value of a label.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: &[(String, u64)],
) -> Result<(), std::fmt::Error> {
    by_label(encoder, name, help, label, rows, ConstCounter::new)
}

/// Gauges of one name, a row for each value of a label.
#[expect(clippy::cast_precision_loss, reason = "gauges are floating point, and these are far below 2^52")]
fn gauges_by(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: &[(String, u64)],
) -> Result<(), std::fmt::Error> {
    by_label(encoder, name, help, label, rows, |figure| ConstGauge::new(figure as f64))
}

fn by_label<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: &[(String, u64)],
    metric: impl Fn(u64) -> M,
) -> Result<(), std::fmt::Error> {
    let mut encoded = encoder.encode_descriptor(name, help, None, metric(0).metric_type())?;
    for (value, figure) in rows {
        let labels = [(label, value.as_str())];
        metric(*figure).encode(encoded.encode_family(&labels)?)?;
    }
    Ok(())
}
