//! `demo`.

use rustix::process::Signal;

use crate::program::Program;

#[test]
fn once_shows_real_results_and_ends() {
    let ended = Program::start(&["demo", "--once"], None).end().expect(0);
    assert!(ended.stdout.contains("/sse-client.html"), "{}", ended.stdout);
    for result in ["count          10000", "rows    10000", "quotes           100", "\"width\":1280", "HTTP request"] {
        assert!(ended.stdout.contains(result), "{result:?} is not in\n{}", ended.stdout);
    }
    assert!(ended.stderr.contains("completed: 5 of 5 tasks"), "{}", ended.stderr);
}

#[test]
fn it_serves_on_until_it_is_stopped() {
    let program = Program::start(&["demo"], None);
    program.wait_until("it invites", |program| program.stdout().contains("until Ctrl-C"));
    let page = program.stdout();
    let url = page.split_whitespace().find(|word| word.ends_with("/sse-client.html")).expect("the page is named");
    let addr = url.trim_start_matches("http://").trim_end_matches("/sse-client.html");
    assert!(std::net::TcpStream::connect(addr).is_ok());
    program.signal(Signal::TERM);
    program.end().expect(0);
}
