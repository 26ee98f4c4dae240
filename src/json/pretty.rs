//! Formats JSON for people, with one line for each item.

/// Formats compact JSON with an indentation of two. Digits and escapes do not change.
pub fn pretty(compact: &str) -> String {
    let mut out = String::with_capacity(compact.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut before = ' ';
    for c in compact.chars() {
        if in_string {
            (in_string, escaped) = (escaped || c != '"', c == '\\' && !escaped);
            out.push(c);
            continue;
        }
        match c {
            '{' | '[' => {
                break_line(&mut out, before, depth);
                depth += 1;
                out.push(c);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !matches!(before, '{' | '[') {
                    new_line(&mut out, depth);
                }
                out.push(c);
            }
            ':' => out.push_str(": "),
            _ => {
                break_line(&mut out, before, depth);
                in_string = c == '"';
                out.push(c);
            }
        }
        before = c;
    }
    out
}

/// Begins a new line for an item after a bracket or a comma.
fn break_line(out: &mut String, before: char, depth: usize) {
    if matches!(before, '{' | '[' | ',') {
        new_line(out, depth);
    }
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}
