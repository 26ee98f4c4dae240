//! Commands with real programs, real pipes and real process groups.

use std::{fs, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::jobs::handlers::double::{Recorder, task};

/// Replaces the 5 s that programs have after their last output.
const BRIEF: Duration = Duration::from_millis(200);

fn command(argv: &[&str]) -> Command {
    Command::new(argv.iter().map(ToString::to_string).collect(), Environment::default()).expect("a program is named")
}

fn shell(script: &str) -> Command {
    command(&["sh", "-c", script])
}

async fn run_with(command: Command, input: Value) -> (Result<Output, TaskError>, Arc<Recorder>) {
    let (task, recorder) = task(input);
    let done = timeout(Duration::from_secs(30), command.run(task)).await.expect("it ends");
    (done, recorder)
}

async fn run(script: &str) -> (Result<Output, TaskError>, Arc<Recorder>) {
    run_with(shell(script), Value::Null).await
}

async fn failure(script: &str) -> TaskError {
    run(script).await.0.expect_err("it fails")
}

/// True if a process runs; a process that waits to be reaped does not run.
fn runs(pid: &str) -> bool {
    fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

async fn until(what: impl Fn() -> bool) -> bool {
    let poll = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), poll).await.is_ok()
}

/// Starts a script that prints the process id of its child, and waits for the id; the attempt then continues in the
/// background. Returns the id and a token to end the attempt.
async fn started(
    script: &str,
) -> (String, tokio_util::sync::CancellationToken, tokio::task::JoinHandle<Result<Output, TaskError>>) {
    let (task, recorder) = task(Value::Null);
    let (cancel, command) = (task.cancel.clone(), shell(script));
    let running = tokio::spawn(async move { command.run(task).await });
    assert!(until(|| !recorder.messages().is_empty()).await, "the script prints nothing");
    let pid = recorder.messages().remove(0);
    assert!(runs(&pid), "the child does not run");
    (pid, cancel, running)
}

#[tokio::test]
async fn input_comes_on_stdin_and_the_result_from_stdout() {
    let script = r#"
import json, sys
order = json.loads(sys.stdin.readline())
assert sys.stdin.read() == ""
for n in (25, 50):
    print(json.dumps({"progress": n, "message": f"{n} of 100", "data": {"n": n}}), flush=True)
print(json.dumps({"result": {"doubled": order["n"] * 2}}))
"#;
    let (done, recorder) = run_with(command(&["python3", "-c", script]), json!({"n": 21, "text": "line\nbreak"})).await;
    assert_eq!(done.expect("it is well").result, json!({"doubled": 42}));
    assert_eq!(recorder.progress(), [25.0, 50.0]);
    assert_eq!(recorder.messages(), ["25 of 100", "50 of 100"]);
    assert_eq!(recorder.forwarded(), [json!({"n": 25}), json!({"n": 50})]);
}

#[tokio::test]
async fn without_a_result_line_the_result_is_null() {
    let (done, recorder) = run("echo working").await;
    assert_eq!(done, Ok(Output::default()));
    assert_eq!(recorder.messages(), ["working"]);
}

#[tokio::test]
async fn a_failing_program_is_an_error_with_the_end_of_its_stderr() {
    let error =
        failure(r#"i=0; while [ $i -lt 2000 ]; do echo "line $i" >&2; i=$((i+1)); done; echo "disk full" >&2; exit 3"#)
            .await;
    assert_eq!((error.code.as_str(), error.retryable), ("exit_status", true));
    assert!(error.message.contains("`sh` exited with status 3: …"), "{error}");
    assert!(error.message.ends_with("line 1999\ndisk full"), "{error}");
    assert!(error.message.len() < STDERR_TAIL + 200, "{} bytes", error.message.len());
}

#[tokio::test]
async fn a_result_of_a_program_that_then_fails_does_not_count() {
    assert_eq!(failure(r#"echo '{"result": 1}'; exit 4"#).await.code, "exit_status");
}

#[tokio::test]
async fn an_error_line_is_the_error_with_any_status() {
    for exit in [0, 5] {
        let error = failure(&format!(r#"echo '{{"error": "no such order", "retryable": false}}'; exit {exit}"#)).await;
        assert_eq!((error.code.as_str(), error.message.as_str()), ("command_error", "no such order"));
        assert!(!error.retryable);
    }
}

#[tokio::test]
async fn a_program_killed_by_a_signal_is_an_error_with_the_signal() {
    let error = failure("kill -s TERM $$").await;
    assert_eq!(error.code, "signal");
    assert!(error.message.contains("signal 15"), "{error}");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let (done, _) = run_with(command(&["millstream-no-such-program"]), Value::Null).await;
    let error = done.expect_err("it is not there");
    assert_eq!((error.code.as_str(), error.retryable), ("spawn_failed", false));
    assert!(error.message.contains("`millstream-no-such-program` is not found"), "{error}");
}

#[tokio::test]
async fn arguments_are_not_seen_by_a_shell() {
    let (done, recorder) = run_with(command(&["echo", "$HOME; `id` *"]), Value::Null).await;
    assert!(done.is_ok());
    assert_eq!(recorder.messages(), ["$HOME; `id` *"]);
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let input = json!("x".repeat(1 << 20));
    for script in ["exec <&-; echo '{\"result\": 1}'", "echo '{\"result\": 1}'"] {
        let (done, _) = run_with(shell(script), input.clone()).await;
        assert_eq!(done.expect("it is well").result, json!(1), "{script}");
    }
}

#[tokio::test]
async fn much_input_and_much_output_do_not_wait_for_each_other() {
    let script = "tee /dev/stderr | head -c 1000000 | wc -c | sed 's/\\(.*\\)/{\"result\": \\1}/'";
    let (done, _) = run_with(shell(script), json!("x".repeat(1 << 20))).await;
    assert_eq!(done.expect("it is well").result, json!(1_000_000));
}

#[tokio::test]
async fn a_line_without_end_is_refused_before_it_fills_the_memory() {
    let error = failure("yes | tr -d '\\n'").await;
    assert_eq!(error.code, "bad_output");
    assert!(error.message.contains("line 1 ") && error.message.contains("1048576 bytes"), "{error}");
}

#[tokio::test]
async fn cancelling_kills_grandchildren_too() {
    let (pid, cancel, running) = started("sleep 300 & echo $!; wait").await;
    cancel.cancel();
    let done = timeout(Duration::from_secs(5), running).await.expect("it ends").expect("it does not panic");
    assert_eq!(done.expect_err("it was cancelled").code, "cancelled");
    assert!(until(|| !runs(&pid)).await, "{pid} outlives its task");
}

#[tokio::test]
async fn dropping_the_attempt_kills_grandchildren_too() {
    let (pid, _cancel, running) = started("trap '' TERM; sh -c 'trap \"\" TERM; sleep 300' & echo $!; wait").await;
    running.abort();
    assert!(until(|| !runs(&pid)).await, "{pid} outlives its task");
}

#[tokio::test]
async fn grandchildren_with_an_open_stdout_are_killed_when_the_program_exits() {
    let (done, recorder) = run("sleep 300 & echo $!; echo '{\"result\": 1}'").await;
    assert_eq!(done.expect("it is well").result, json!(1));
    let pid = recorder.messages().remove(0);
    assert!(until(|| !runs(&pid)).await, "{pid} outlives its task");
}

#[tokio::test]
async fn a_process_that_left_the_group_cannot_block_the_task() {
    let script = r#"
import subprocess
daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(daemon.pid)
print('{"result": 1}')
"#;
    let began = std::time::Instant::now();
    let (done, recorder) = run_with(command(&["python3", "-c", script]), Value::Null).await;
    assert_eq!(done.expect("it is well").result, json!(1));
    assert!(began.elapsed() < Duration::from_secs(30));
    let daemon = recorder.messages().remove(0).parse().expect("a process id");
    let daemon = rustix::process::Pid::from_raw(daemon).expect("it is not 0");
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).expect("it has left the group, as daemons do");
}

#[tokio::test]
async fn a_program_that_lives_on_after_its_result_is_killed_and_the_result_counts() {
    let lingering = Command { linger: BRIEF, ..shell("echo $$; echo '{\"result\": 1}'; exec sleep 300") };
    let (done, recorder) = run_with(lingering, Value::Null).await;
    assert_eq!(done.expect("it is well").result, json!(1));
    let pid = recorder.messages().remove(0);
    assert!(until(|| !runs(&pid)).await, "{pid} outlives its task");
}

#[tokio::test]
async fn a_program_that_closes_stdout_and_lives_on_is_killed() {
    let lingering = Command { linger: BRIEF, ..shell("echo hm >&2; exec >&-; exec sleep 300") };
    let error = run_with(lingering, Value::Null).await.0.expect_err("it has no result");
    assert_eq!(error.code, "bad_output");
    assert!(error.message.contains("did not exit: hm"), "{error}");
}

#[tokio::test]
async fn the_environment_has_only_named_variables() {
    let (passed, _) = environment::tests::other();
    let environment =
        Environment { set: [("GREETING".to_owned(), "a \"b\"".to_owned())].into(), pass: vec![passed.clone()] };
    let argv = ["env"].map(str::to_owned).to_vec();
    let (done, recorder) = run_with(Command::new(argv, environment).expect("a program is named"), Value::Null).await;
    assert!(done.is_ok());
    let messages = recorder.messages();
    let mut names: Vec<_> = messages.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["PATH", "HOME", "LANG", "TZ"].contains(name));
    let own = ["MILLSTREAM_ATTEMPT", "MILLSTREAM_IDEMPOTENCY_KEY", "MILLSTREAM_LIFELINE"];
    let mut expected = [&["GREETING", passed.as_str()][..], &own[..]].concat();
    expected.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, expected);
    assert!(messages.contains(&"GREETING=a \"b\"".to_owned()), "{messages:?}");
}

#[tokio::test]
async fn the_environment_names_the_attempt() {
    let (done, recorder) = run(r#"echo "$MILLSTREAM_IDEMPOTENCY_KEY $MILLSTREAM_ATTEMPT""#).await;
    assert!(done.is_ok());
    assert_eq!(recorder.messages(), ["j1/t1 1"]);
}
