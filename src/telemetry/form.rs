//! The form of log lines: text for people, or one JSON object per line.
//!
//! The fields of a span are formatted when the span begins, for each request, and most requests write few lines. So this
//! is done by hand, in one write: with the formatters of `tracing_subscriber` it costs twice as many instructions.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{DefaultFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::{LookupSpan, SpanRef},
};

use super::Format;

/// Formats the fields of spans: `id=7 method=GET` in text, an object in JSON.
pub(super) struct SpanFields(pub(super) Format);

/// Formats lines as text, in the form of `tracing_subscriber`. That form would format the fields of a line by
/// [`SpanFields`] too, which leaves out what only lines need: messages, quotes, colours.
pub(super) struct TextLines;

/// The fields of one span so far.
struct Fields {
    form: Format,
    text: String,
}

// === impl SpanFields ===

impl<'w> FormatFields<'w> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut all = Fields::continuing(self.0, String::with_capacity(128));
        fields.record(&mut all);
        writer.write_str(&all.end())
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let mut all = Fields::continuing(self.0, std::mem::take(&mut current.fields));
        fields.record(&mut all);
        current.fields = all.end();
        Ok(())
    }
}

// === impl Fields ===

impl Fields {
    /// Takes up the text of [`end`](Self::end), or begins with an empty text.
    fn continuing(form: Format, mut text: String) -> Self {
        if form == Format::Json && text.pop().is_none() {
            text.push('{');
        }
        Self { form, text }
    }

    fn end(mut self) -> String {
        if self.form == Format::Json {
            self.text.push('}');
        }
        self.text
    }

    fn begin(&mut self, field: &Field) {
        match self.form {
            Format::Text if self.text.is_empty() => self.text.push_str(field.name()),
            Format::Text => self.text.extend([" ", field.name()]),
            Format::Json if self.text.len() == 1 => self.text.extend(["\"", field.name(), "\""]),
            Format::Json => self.text.extend([",\"", field.name(), "\""]),
        }
        self.text.push(if self.form == Format::Json { ':' } else { '=' });
    }

    /// A value that looks the same in both forms.
    fn bare(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.begin(field);
        let _ = write!(self.text, "{value}");
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.begin(field);
        let plain = is_plain(value);
        match self.form {
            Format::Text if plain => self.text.push_str(value),
            Format::Text => drop(write!(self.text, "{value:?}")),
            Format::Json if plain => self.text.extend(["\"", value, "\""]),
            Format::Json => self.text.push_str(&serde_json::to_string(value).expect("text becomes JSON")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// True for text that needs no quotes and no escapes. Clients choose some values, such as paths.
fn is_plain(value: &str) -> bool {
    // All bytes are looked at: without a branch for each the compiler makes this a few instructions.
    let plain = |byte: u8| byte.is_ascii_graphic() & !matches!(byte, b'"' | b'\\' | b'{' | b'}');
    value.bytes().fold(!value.is_empty(), |all, byte| all & plain(byte))
}

// === impl TextLines ===

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let colours = writer.has_ansi_escapes();
        let [dim, bold, level, end] =
            if colours { ["\x1b[2m", "\x1b[1m", colour(*meta.level()), "\x1b[0m"] } else { [""; 4] };
        writer.write_str(dim)?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "{end} {level}{:>5}{end} ", meta.level().as_str())?;
        let innermost = ctx.parent_span();
        if let Some(span) = &innermost {
            write_spans::<S, N>(&mut writer, span, [bold, dim, end])?;
        }
        let after = if innermost.is_some() { " " } else { "" };
        write!(writer, "{after}{dim}{}:{end} ", meta.target())?;
        DefaultFields::new().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Writes the spans around a line, the outermost first.
fn write_spans<S, N>(writer: &mut Writer<'_>, span: &SpanRef<'_, S>, style: [&str; 3]) -> fmt::Result
where
    S: for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    if let Some(parent) = span.parent() {
        write_spans::<S, N>(writer, &parent, style)?;
    }
    let [bold, dim, end] = style;
    let mut write = |parts: &[&str]| parts.iter().try_for_each(|part| writer.write_str(part));
    write(&[bold, span.name(), end])?;
    if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
        write(&[bold, "{", end, fields, bold, "}", end])?;
    }
    write(&[dim, ":", end])
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

#[cfg(test)]
mod tests;
