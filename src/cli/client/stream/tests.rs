//! Tests of the stream with a scripted server.

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

/// Serves one connection after another with these responses, and records the requests.
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
async fn a_stream_resumes_until_the_server_ends_it() {
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
async fn a_stream_that_breaks_before_its_first_event_resumes_from_its_beginning() {
    let answers = vec![
        format!("{HEAD}id: e-7\nevent: connection\nretry: 1\ndata: {{}}\n\n"),
        "HTTP/1.1 204 N\r\n\r\n".to_owned(),
    ];
    let (api, asked) = serve(answers).await;
    events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap();
    assert!(asked.lock().unwrap()[1].contains("last-event-id: e-7\r\n"));
}

#[tokio::test]
async fn a_control_frame_is_not_an_event_with_its_name() {
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
async fn a_rejected_request_ends_the_stream_with_the_text_of_the_problem() {
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
async fn other_media_types_are_rejected() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi".to_owned();
    let (api, _) = serve(vec![answer]).await;
    let error = events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap_err();
    assert!(error.contains("not an event stream") && error.contains("text/html"), "{error}");
}

#[tokio::test]
async fn a_failed_first_connection_is_an_error_with_advice() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let api = Api::at(&format!("http://127.0.0.1:{port}")).unwrap();
    let error = events(&mut Stream::new(&api, api.url("/x"), None)).await.unwrap_err();
    assert!(error.contains("millstream serve"), "{error}");
}

#[tokio::test]
async fn patience_ends() {
    let (api, _) = serve(vec![format!("{HEAD}retry: 1\ndata: one\n\n")]).await;
    let mut stream = Stream::new(&api, api.url("/x"), None).give_up_after(Duration::from_millis(300));
    let error = events(&mut stream).await.unwrap_err();
    assert!(error.contains("gave up"), "{error}");
}

#[tokio::test]
async fn a_stream_without_data_counts_as_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Api::at(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(HEAD.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut stream = Stream::new(&api, api.url("/x"), None).idle(Duration::from_millis(50));
    let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("the loss is detected");
    assert!(matches!(next, Ok(Next::Lost { .. })), "{next:?}");
}
