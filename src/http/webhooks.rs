//! POST `/api/webhooks/{name}`: deliveries of other services. The secret of the webhook is the only credential that
//! they need.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data, Path},
};
use actix_web_lab::extract::{RequestSignature, RequestSignatureScheme};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Code, Problem, Refusal, body::Raw, query::NoQuery};
use crate::{
    event::Position,
    intake::{Claim, Proven, Refused, Webhook},
    journal::Batch,
    node::Node,
};

/// Header fields of deliveries, by scheme.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler reads the fields by name")]
struct DeliveryFields {
    /// Scheme `secret-header`: the secret; `header` names another field.
    #[param(rename = "x-secret-key", nullable = false)]
    secret: Option<String>,
    /// Scheme `standard-webhooks`: the id of the delivery; a second delivery with this id appends nothing.
    #[param(rename = "webhook-id", nullable = false)]
    id: Option<String>,
    /// Scheme `standard-webhooks`: Unix seconds.
    #[param(rename = "webhook-timestamp", nullable = false)]
    timestamp: Option<String>,
    /// Scheme `standard-webhooks`: `v1,<base64>`, one or more.
    #[param(rename = "webhook-signature", nullable = false)]
    signature: Option<String>,
    /// Scheme `github`: `sha256=<hex>`.
    #[param(rename = "X-Hub-Signature-256", nullable = false)]
    github_signature: Option<String>,
    /// Scheme `github`: the id of the delivery.
    #[param(rename = "X-GitHub-Delivery", nullable = false)]
    github_delivery: Option<String>,
}

/// The result of a delivery.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "id": "9c1f00aa0b77-12", "delivered": 3 })))]
pub(super) struct Received {
    /// The position of its event; for a repeated delivery the position of the first one.
    #[schema(value_type = String)]
    id: Position,
    /// Number of emitters of this node that receive it.
    delivered: Option<u64>,
    /// True if it was received before, with the same `webhook-id` or `X-GitHub-Delivery`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// The claim of a delivery, which takes the body while it arrives.
pub(super) struct Signed(Claim);

/// Seconds after which a sender may retry a webhook that is off.
const OFF_RETRY_S: u64 = 60;

/// Receive a delivery; the settings (`[webhooks.NAME]`) define its authentication and its event.
#[utoipa::path(post, path = "/api/webhooks/{name}", tag = "webhooks",
    params(
        ("name" = String, Path, description = "its name in the settings"),
        DeliveryFields,
    ),
    request_body(content = Value, description = "any JSON", example = json!({ "batch_id": "test-123", "status": "success" })),
    responses(
        (status = 200, description = "its event is in the journal", body = Received),
        (status = 401, description = "secret, signature or timestamp are missing or wrong"),
        (status = 404, description = "no webhook has this name"),
        (status = 422, description = "the delivery cannot be mapped to an event"),
        (status = 503, description = "the webhook is off, or the journal is not available")))]
pub(super) async fn receive(
    node: Data<Node>,
    request: HttpRequest,
    name: Path<String>,
    _: NoQuery,
    delivery: RequestSignature<Raw, Signed>,
) -> Result<HttpResponse, Problem> {
    let (Raw(raw), proof) = delivery.into_parts();
    let draft = |webhook: &Webhook| webhook.draft(&proof?, &|name| once(&request, name), &raw);
    let draft = node.webhooks.get(&name).and_then(draft).map_err(|refused| refusal(&node, &name, &refused))?;
    draft.check(node.config.journal.max_event_bytes)?;
    let topic = draft.topics[0].clone();
    let delivered = node.hub.delivered(&draft.topics, false);
    let receipts = node.journal.append(Batch::events(vec![draft])).await?;
    let (id, duplicate) = (receipts[0].position, receipts[0].duplicate);
    node.webhooks.count_accepted(duplicate);
    tracing::info!(webhook = %name, %topic, %id, delivered, duplicate, "delivery published");
    Ok(HttpResponse::Ok().json(Received { id, delivered, duplicate }))
}

// === impl Signed ===

impl RequestSignatureScheme for Signed {
    /// A failed proof is a value, not an error of the scheme: after a client has left, the proof of half a body fails too,
    /// and must not be counted.
    type Signature = Result<Proven, Refused>;
    type Error = Problem;

    /// Refuses a delivery that no body can make right, before its body is read.
    async fn init(request: &HttpRequest) -> Result<Self, Problem> {
        let node = request.app_data::<Data<Node>>().expect("the routes are mounted with their node");
        let name = request.match_info().query("name");
        let headers = |name: &str| once(request, name);
        let claim = node.webhooks.get(name).and_then(|webhook| webhook.claim(&headers, node.clock.now_ms()));
        claim.map(Self).map_err(|refused| refusal(node, name, &refused))
    }

    async fn consume_chunk(&mut self, _: &HttpRequest, chunk: Bytes) -> Result<(), Problem> {
        self.0.update(&chunk);
        Ok(())
    }

    async fn finalize(self, _: &HttpRequest) -> Result<Self::Signature, Problem> {
        Ok(self.0.prove().map_err(Refused::from))
    }
}

/// The value of a field that occurs exactly once; two fields are ambiguous.
fn once<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a [u8]> {
    let mut values = request.headers().get_all(name);
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// Counts a refused delivery; returns its response.
fn refusal(node: &Node, name: &str, refused: &Refused) -> Problem {
    node.webhooks.count_refused(refused);
    // Level debug: every stranger can cause these lines.
    tracing::debug!(webhook = name, reason = refused.as_str(), "delivery refused");
    match refused {
        Refused::Unknown => {
            let detail = "no webhook has this name (`[webhooks.NAME]` in the settings)";
            Problem::unknown(detail).coded(Code::UnknownWebhook)
        }
        Refused::Off => {
            let detail = "this webhook is off: the node has no secret for it; its log names the environment variable";
            Problem::refused(Refusal::WebhookOff, detail).after(OFF_RETRY_S)
        }
        // One text for every reason: a client that guesses secrets must not learn from it.
        Refused::Unproven(_) => {
            let detail =
                "the secret or signature of this delivery is missing or wrong, or its timestamp too far from now";
            Problem::refused(Refusal::WebhookProof, detail)
        }
        Refused::Unmapped(reason) => Problem::wrong(reason.clone()),
    }
}
