//! POST `/api/webhooks/{name}`: deliveries of other services. The secret of the webhook is all the access that they need.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, Data, Path},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Problem, body, query::NoQuery};
use crate::{
    app::Node,
    event::{Position, now_ms},
    intake::Refused,
    journal::Batch,
};

/// What became of a delivery.
#[derive(Serialize, ToSchema)]
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
        ("x-secret-key" = Option<String>, Header, description = "scheme `secret-header`: the secret; `header` names another field"),
        ("webhook-id" = Option<String>, Header, description = "scheme `standard-webhooks`: the delivery; a second one with this id appends nothing"),
        ("webhook-timestamp" = Option<String>, Header, description = "scheme `standard-webhooks`: Unix seconds"),
        ("webhook-signature" = Option<String>, Header, description = "scheme `standard-webhooks`: `v1,<base64>`, one or more"),
        ("X-Hub-Signature-256" = Option<String>, Header, description = "scheme `github`: `sha256=<hex>`"),
        ("X-GitHub-Delivery" = Option<String>, Header, description = "scheme `github`: the delivery"),
    ),
    request_body(content = Object, description = "any JSON"), responses(
        (status = 200, body = Received), (status = 400, body = Problem),
        (status = 401, description = "secret, signature or timestamp are missing or wrong", body = Problem),
        (status = 404, body = Problem), (status = 408, body = Problem), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 422, description = "no event can be made out of it", body = Problem),
        (status = 503, description = "the webhook is off, or the journal takes no events now", body = Problem)))]
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
    let claim = match webhook.claim(&headers, now_ms()) {
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
        Refused::Unknown => Err(Problem::unknown("no webhook has this name (`[webhooks.NAME]` in the settings)")),
        Refused::Off => {
            let detail = "this webhook is off: the node has no secret for it; its log names the environment variable";
            Err(Problem::unavailable(detail, OFF_RETRY_S))
        }
        // The same words whatever was wrong: who tries secrets learns nothing from them.
        Refused::Unproven(_) => {
            let detail =
                "the secret or signature of this delivery is missing or wrong, or its timestamp too far from now";
            let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Webhook"));
            Ok(response)
        }
        Refused::Unmapped(reason) => Err(Problem::wrong(reason.clone())),
    }
}
