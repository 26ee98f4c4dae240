//! The stream against a server that does what it is told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// Answers one connection after another with these texts; keeps what it was asked.
async fn serve(answers: Vec<String>) -> (Api, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Api::at(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = asked.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            seen.lock().unwrap().push(String::from_utf8(request).unwrap().to_ascii_lowercase());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (api, asked)
}

/// All events up to the end, or up to the error.
async fn events(stream: &mut Stream) -> Result<Vec<String>, String> {
    let mut seen = Vec::new();
    let all = async {
        loop {
            match stream.next().await {
                Ok(Next::Event(message)) => seen.push(message.data),
                Ok(Next::Lost { .. }) => {}
                Ok(Next::End) => return Ok(()),
                Err(failure) => return Err(failure.message),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("it ends")?;
    Ok(seen)
}

#[tokio::test]
async fn goes_on_where_it_was_until_the_server_says_that_nothing_follows() {
    let answers = vec![
        format!("{HEAD}retry: 1\nid: a-1\ndata: one\n\nid: a-2\ndata: two\n\nid: a-3\ndata: half"),
        "HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_owned(),
        format!("{HEAD}data: three\n\n"),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
    ];
    let (api, asked) = serve(answers).await;
    let mut stream = Stream::new(&api, api.url("/x"), None);
    assert_eq!(events(&mut stream).await.unwrap(), ["one", "two", "three"]);
    let asked = asked.lock().unwrap();
    assert!(!asked[0].contains("last-event-id"), "{}", asked[0]);
    for again in &asked[1..] {
        assert!(again.contains("last-event-id: a-2\r\n"), "{again}");
    }
}

#[tokio::test]
async fn a_live_stream_that_breaks_before_its_first_event_goes_on_from_its_beginning() {
    let answers = vec![
        format!("{HEAD}id: e-7\nevent: connection\nretry: 1\ndata: {{}}\n\n"),
        "HTTP/1.1 204 N\r\n\r\n".to_owned(),
    ];
    let (api, asked) = serve(answers).await;
    events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap();
    assert!(asked.lock().unwrap()[1].contains("last-event-id: e-7\r\n"));
}

#[tokio::test]
async fn a_greeting_is_a_control_frame_and_an_event_of_its_name_is_not() {
    let frames =
        "id: e-7\nevent: connection\ndata: {}\n\nid: e-8\nevent: connection\ndata: {}\n\nevent: gap\ndata: {}\n\n";
    let (api, _) = serve(vec![format!("{HEAD}{frames}")]).await;
    let mut stream = Stream::new(&api, api.url("/x"), None);
    for control in [true, false, true] {
        match stream.next().await {
            Ok(Next::Event(message)) => assert_eq!(message.is_control(), control, "{message:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_ends_it_with_the_words_of_the_problem() {
    let problem = r#"{"status":404,"detail":"there is no job `x`"}"#;
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{problem}",
        problem.len()
    );
    let (api, _) = serve(vec![answer]).await;
    let error = events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap_err();
    assert_eq!(error, "404: there is no job `x`");
}

#[tokio::test]
async fn what_is_no_event_stream_is_refused() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi".to_owned();
    let (api, _) = serve(vec![answer]).await;
    let error = events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap_err();
    assert!(error.contains("no event stream") && error.contains("text/html"), "{error}");
}

#[tokio::test]
async fn nobody_there_at_the_first_attempt_is_an_error_that_says_what_to_do() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let api = Api::at(&format!("http://127.0.0.1:{port}")).unwrap();
    let error = events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap_err();
    assert!(error.contains("millstream serve"), "{error}");
}

#[tokio::test]
async fn patience_ends() {
    let (api, _) = serve(vec![format!("{HEAD}retry: 1\ndata: one\n\n")]).await;
    let mut stream = Stream::new(&api, api.url("/x"), None).patience(Duration::from_millis(300));
    let error = events(&mut stream).await.unwrap_err();
    assert!(error.contains("gave up"), "{error}");
}

#[tokio::test]
async fn silence_counts_as_a_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Api::at(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(HEAD.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut stream = Stream::new(&api, api.url("/x"), None).idle(Duration::from_millis(50));
    let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("it notices");
    assert!(matches!(next, Ok(Next::Lost { .. })), "{next:?}");
}
