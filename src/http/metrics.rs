//! Metrics in the text format of Prometheus (OpenMetrics). The components count and return their rows at each scrape;
//! no figure is stored twice.

use std::{fmt, sync::Arc};

use actix_web::{HttpResponse, web::Data};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{Problem, answer::Shared, frontend::Frontend, identity::Admin};
use crate::{
    metrics::{Kind, Row, Rows},
    node::Node,
    unsent::Share,
};

/// Metrics of the node.
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
    let mut rows = Rows::default();
    node.metrics(&mut rows);
    frontend.metrics(&mut rows);
    let mut registry = Registry::with_prefix("millstream");
    registry.register_collector(Box::new(Written(rows)));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| Problem::unavailable("the metrics cannot be written"))?;
    let text = node.unsent.share(text.into());
    frontend.requests.scrapes.keep(&text);
    Ok(text)
}

/// Rows that the crate encodes as text.
#[derive(Debug)]
struct Written(Rows);

impl Collector for Written {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|row| match row.kind {
            Kind::Counter => write(&mut encoder, row, ConstCounter::new),
            #[expect(clippy::cast_precision_loss, reason = "gauges are floating point, and these are far below 2^52")]
            Kind::Gauge => write(&mut encoder, row, |value| ConstGauge::new(value as f64)),
        })
    }
}

fn write<M: EncodeMetric>(encoder: &mut DescriptorEncoder<'_>, row: &Row, metric: impl Fn(u64) -> M) -> fmt::Result {
    let mut encoded = encoder.encode_descriptor(row.name, row.help, None, metric(0).metric_type())?;
    match row.values.as_slice() {
        [(_, value)] if row.label.is_empty() => metric(*value).encode(encoded),
        values => values
            .iter()
            .try_for_each(|(label, value)| metric(*value).encode(encoded.encode_family(&[(row.label, &**label)])?)),
    }
}
