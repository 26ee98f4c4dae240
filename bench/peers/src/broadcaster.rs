//! `broadcaster [ADDRESS]`: the SSE broadcaster that tutorials for actix-web build, a baseline for fan-out.
//!
//! ```text
//! GET  /sub/{topic}   an event stream of later events of the topic
//! POST /pub/{topic}   sends the body to all subscribers; the response comes when each has it in its channel
//! ```
//!
//! A map of bounded channels behind one lock. No history, no resume, no filter, no ids; a slow reader blocks the
//! publisher when ten events wait. It listens on 127.0.0.1:8080 by default, and prints its address.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer, Responder, get, post,
    web::{Data, Path},
};
use actix_web_lab::sse;
use futures_util::future::join_all;
use tokio::sync::mpsc;

/// Events that wait for one client before a publisher waits for it.
const CAPACITY: usize = 10;

/// Time between two comments on a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Subscribers by topic.
#[derive(Default)]
struct Broadcaster {
    clients: Mutex<HashMap<String, Vec<mpsc::Sender<sse::Event>>>>,
}

// === impl Broadcaster ===

impl Broadcaster {
    fn listen(&self, topic: String) -> mpsc::Receiver<sse::Event> {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.entry(topic).or_default().push(sender);
        receiver
    }

    /// Sends to all subscribers of a topic, and removes disconnected ones; returns the number of receivers.
    async fn publish(&self, topic: &str, text: &str) -> usize {
        let listening = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(listening) = clients.get_mut(topic) else { return 0 };
            listening.retain(|client| !client.is_closed());
            listening.clone()
        };
        let sends = listening.iter().map(|client| client.send(sse::Data::new(text).into()));
        join_all(sends).await.iter().filter(|sent| sent.is_ok()).count()
    }
}

#[get("/sub/{topic}")]
async fn subscribe(broadcaster: Data<Broadcaster>, topic: Path<String>) -> impl Responder {
    let receiver = broadcaster.listen(topic.into_inner());
    sse::Sse::from_infallible_receiver(receiver).with_keep_alive(KEEP_ALIVE)
}

#[post("/pub/{topic}")]
async fn publish(broadcaster: Data<Broadcaster>, topic: Path<String>, body: String) -> impl Responder {
    HttpResponse::Ok().body(broadcaster.publish(&topic, &body).await.to_string())
}

#[actix_web::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let broadcaster = Data::new(Broadcaster::default());
    let make = move || App::new().app_data(broadcaster.clone()).service(subscribe).service(publish);
    let server = HttpServer::new(make).bind(address)?;
    for address in server.addrs() {
        println!("listening on http://{address}");
    }
    server.run().await
}
