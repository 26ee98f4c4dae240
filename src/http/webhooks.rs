//! POST `/api/webhooks/{name}`: deliveries of other services. The secret of the webhook is all the access that they need.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{self, Data, Path},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Code, Problem, Refusal, body, query::NoQuery};
use crate::{event::Position, intake::Refused, journal::Batch, node::Node};

/// What senders put into header fields, by scheme.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is the document's view of what is read by name")]
struct DeliveryFields {
    /// Scheme `secret-header`: the secret; `header` names another field.
    #[param(rename = "x-secret-key", nullable = false)]
    secret: Option<String>,
    /// Scheme `standard-webhooks`: the delivery; a second one with this id appends nothing.
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
    /// Scheme `github`: the delivery.
    #[param(rename = "X-GitHub-Delivery", nullable = false)]
    github_delivery: Option<String>,
}

/// What became of a delivery.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "id": "9c1f00aa0b77-12", "delivered": 3 })))]
pub(super) struct Received {
    /// The position of its event; the first one's where the delivery came before.
    #[schema(value_type = String)]
    id: Position,
    /// Emitters of this node that hear it.
    delivered: Option<u64>,
    /// True when it came before, with the same `webhook-id` or `X-GitHub-Delivery`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// When a sender may try a webhook again that is off, in seconds.
const OFF_RETRY_S: u64 = 60;

/// Take a delivery; the settings (`[webhooks.NAME]`) say how it is proven and which event it becomes.
#[utoipa::path(post, path = "/api/webhooks/{name}", tag = "webhooks",
    params(
        ("name" = String, Path, description = "its name in the settings"),
        DeliveryFields,
    ),
    request_body(content = Value, description = "any JSON", example = json!({ "batch_id": "test-123", "status": "success" })),
    responses(
        (status = 200, description = "its event is in the journal", body = Received),
        (status = 401, description = "secret, signature or timestamp are missing or wrong"),
        (status = 404, description = "there is no such webhook"),
        (status = 422, description = "no event can be made out of it"),
        (status = 503, description = "the webhook is off, or the journal takes no events now")))]
pub(super) async fn receive(
    node: Data<Node>,
    request: HttpRequest,
    name: Path<String>,
    _: NoQuery,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let headers = |name: &str| once(&request, name);
    let refuse = |refused: Refused| refusal(&node, &name, &refused);
    let webhook = match node.webhooks.get(&name) {
        Ok(webhook) => webhook,
        Err(refused) => return refuse(refused),
    };
    // A body is read for who may be right.
    let claim = match webhook.claim(&headers, node.clock.now_ms()) {
        Ok(claim) => claim,
        Err(refused) => return refuse(refused),
    };
    body::media_type(&request)?;
    let raw = body::read(&request, &mut payload.into_inner()).await?;
    let draft = match webhook.draft(&claim, &headers, &raw) {
        Ok(draft) => draft,
        Err(refused) => return refuse(refused),
    };
    draft.check(node.config.journal.max_event_bytes)?;
    let topic = draft.topics[0].clone();
    let delivered = node.hub.delivered(&draft.topics, false);
    let receipts = node.journal.append(Batch::events(vec![draft])).await?;
    let (id, duplicate) = (receipts[0].position, receipts[0].duplicate);
    node.webhooks.count_accepted(duplicate);
    tracing::info!(webhook = %name, %topic, %id, delivered, duplicate, "delivery published");
    Ok(HttpResponse::Ok().json(Received { id, delivered, duplicate }))
}

/// The value of a field that is there once; of two nobody knows which one is meant.
fn once<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a [u8]> {
    let mut values = request.headers().get_all(name);
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

fn refusal(node: &Node, name: &str, refused: &Refused) -> Result<HttpResponse, Problem> {
    node.webhooks.count_refused(refused);
    // Not louder: these lines are every stranger's to write.
    tracing::debug!(webhook = name, reason = refused.as_str(), "delivery refused");
    match refused {
        Refused::Unknown => {
            let detail = "no webhook has this name (`[webhooks.NAME]` in the settings)";
            Err(Problem::unknown(detail).coded(Code::UnknownWebhook))
        }
        Refused::Off => {
            let detail = "this webhook is off: the node has no secret for it; its log names the environment variable";
            Err(Problem::refused(Refusal::WebhookOff, detail).after(OFF_RETRY_S))
        }
        // The same words whatever was wrong: who tries secrets learns nothing from them.
        Refused::Unproven(_) => {
            let detail =
                "the secret or signature of this delivery is missing or wrong, or its timestamp too far from now";
            let mut response = Problem::refused(Refusal::WebhookProof, detail).response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Webhook"));
            Ok(response)
        }
        Refused::Unmapped(reason) => Err(Problem::wrong(reason.clone())),
    }
}
