//! Tests of the queue with a stderr that blocks, fails, or accepts only a part of the bytes.

use super::*;

/// A stderr whose behaviour the test sets.
#[derive(Clone, Default)]
struct Pipe(Arc<(Mutex<Reader>, Condvar)>);

#[derive(Default)]
struct Reader {
    mode: Mode,
    read: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mode {
    #[default]
    Open,
    /// Writes block.
    Stalled,
    /// Writes fail with `WouldBlock`.
    Busy,
    /// Writes fail.
    Broken,
    /// This number of bytes is accepted, then writes fail.
    Room(usize),
}

const PATIENCE: Duration = Duration::from_secs(20);

// === impl Pipe ===

impl Pipe {
    fn lines(&self, max_bytes: usize) -> Lines {
        Lines::start(max_bytes, Format::Text, self.clone()).unwrap()
    }

    fn set(&self, mode: Mode) {
        self.0.0.lock().unwrap().mode = mode;
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().read.clone()).unwrap()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (reader, changed) = &*self.0;
        let mut reader = changed.wait_while(reader.lock().unwrap(), |reader| reader.mode == Mode::Stalled).unwrap();
        let count = match reader.mode {
            Mode::Broken | Mode::Room(0) => return Err(io::ErrorKind::BrokenPipe.into()),
            Mode::Busy => return Err(io::ErrorKind::WouldBlock.into()),
            Mode::Room(left) => {
                reader.mode = Mode::Room(left.saturating_sub(bytes.len()));
                left.min(bytes.len())
            }
            _ => bytes.len(),
        };
        reader.read.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A parsed log line: the number of the line, or the number of missing lines.
#[derive(Debug, PartialEq)]
enum ParsedLine {
    Line(u64),
    Lost(u64),
}

fn parse(text: &str) -> Vec<ParsedLine> {
    let parse = |line: &str| match line.split_once("lines were lost lines=") {
        Some((_, lost)) => ParsedLine::Lost(lost.parse().unwrap()),
        None => ParsedLine::Line(line.strip_prefix("line ").unwrap().parse().unwrap()),
    };
    let mut all: Vec<ParsedLine> = Vec::new();
    for next in text.lines().map(parse) {
        match (all.last_mut(), next) {
            // A note reports the lines that were lost so far; a second note follows if more are lost before it is written.
            (Some(ParsedLine::Lost(sum)), ParsedLine::Lost(more)) => *sum += more,
            (_, next) => all.push(next),
        }
    }
    all
}

fn push(lines: &Lines, numbers: std::ops::Range<u64>) {
    numbers.for_each(|number| lines.push(format!("line {number}\n").as_bytes()));
}

#[test]
fn lines_are_written_in_order() {
    let pipe = Pipe::default();
    let lines = pipe.lines(1 << 20);
    push(&lines, 0..10_000);
    lines.flush(PATIENCE);
    assert_eq!(parse(&pipe.text()), (0..10_000).map(ParsedLine::Line).collect::<Vec<_>>());
    assert_eq!(lines.dropped(), 0);
}

#[test]
fn a_blocked_reader_loses_lines_which_are_counted_where_they_are_missing() {
    for stalled in [Mode::Stalled, Mode::Busy] {
        let pipe = Pipe::default();
        let lines = pipe.lines(MAX);
        pipe.set(stalled);
        // The queue accepts lines while it has space, and never blocks.
        push(&lines, 0..1000);
        let lost = lines.dropped();
        assert!((1..1000).contains(&lost), "{stalled:?}: {lost}");
        pipe.set(Mode::Open);
        lines.flush(PATIENCE);
        push(&lines, 1000..1001);
        lines.flush(PATIENCE);
        let kept = 1000 - lost;
        let mut expected: Vec<ParsedLine> = (0..kept).map(ParsedLine::Line).collect();
        expected.extend([ParsedLine::Lost(lost), ParsedLine::Line(1000)]);
        assert_eq!(parse(&pipe.text()), expected, "{stalled:?}");
        assert_eq!(lines.dropped(), lost, "the note is not a lost line");
    }
}

#[test]
fn an_exit_does_not_wait_for_a_blocked_reader() {
    let pipe = Pipe::default();
    let lines = pipe.lines(MAX);
    pipe.set(Mode::Stalled);
    push(&lines, 0..1);
    let begin = Instant::now();
    lines.flush(Duration::from_millis(50));
    assert!(begin.elapsed() < PATIENCE);
    assert_eq!(pipe.text(), "");
    pipe.set(Mode::Open);
}

#[test]
fn a_failing_stderr_loses_lines_and_the_next_line_reports_their_number() {
    let pipe = Pipe::default();
    let lines = pipe.lines(1 << 20);
    push(&lines, 0..1);
    lines.flush(PATIENCE);
    pipe.set(Mode::Broken);
    for number in 1..4 {
        push(&lines, number..number + 1);
        lines.flush(PATIENCE);
    }
    assert_eq!(lines.dropped(), 3);
    pipe.set(Mode::Open);
    push(&lines, 4..5);
    lines.flush(PATIENCE);
    assert_eq!(parse(&pipe.text()), [ParsedLine::Line(0), ParsedLine::Lost(3), ParsedLine::Line(4)]);
    assert_eq!(lines.dropped(), 3);
}

#[test]
fn a_line_that_was_written_in_part_ends_before_the_next_one() {
    let pipe = Pipe::default();
    let lines = pipe.lines(1 << 20);
    pipe.set(Mode::Room(10));
    push(&lines, 0..1);
    lines.flush(PATIENCE);
    push(&lines, 1..2);
    lines.flush(PATIENCE);
    assert_eq!(pipe.text(), "line 0\nlin");
    pipe.set(Mode::Open);
    push(&lines, 2..3);
    lines.flush(PATIENCE);
    let text = pipe.text();
    let (incomplete, rest) = text.split_once("\nlin\n").unwrap();
    assert_eq!(incomplete, "line 0");
    assert_eq!(parse(rest), [ParsedLine::Lost(1), ParsedLine::Line(2)]);
}

#[test]
fn only_a_line_larger_than_the_queue_is_lost() {
    let pipe = Pipe::default();
    let lines = pipe.lines(MAX);
    lines.push(&[b'x'; MAX + 1]);
    push(&lines, 0..1);
    lines.flush(PATIENCE);
    assert_eq!(parse(&pipe.text()), [ParsedLine::Lost(1), ParsedLine::Line(0)]);
    assert_eq!(lines.dropped(), 1);
}

/// Bytes of a small queue.
const MAX: usize = 1000;
