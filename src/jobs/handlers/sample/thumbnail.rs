//! Sample `thumbnail`: typical work of an upload service on a picture.

use std::io::Cursor;

use image::{ImageFormat, imageops::FilterType};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{data::HARBOUR, steps::Steps};
use crate::{jobs::handler::TaskError, text::hex};

/// Widths in pixels, in descending order; the height is proportional.
const WIDTHS: [u32; 3] = [1280, 640, 320];

/// Progress when the picture is decoded.
const DECODED: f64 = 10.0;

/// Share of each width; the first third of it is resizing.
const SHARE: f64 = 30.0;

pub(super) fn run(steps: &Steps) -> Result<Value, TaskError> {
    steps.done(0.0, "decoding the picture")?;
    let mut picture = image::load_from_memory_with_format(HARBOUR, ImageFormat::Png).map_err(|error| broken(&error))?;
    let (full_width, full_height) = (picture.width(), picture.height());
    steps.done(DECODED, format!("decoded {full_width} × {full_height} pixels"))?;
    let mut thumbnails = Vec::with_capacity(WIDTHS.len());
    for (width, before) in WIDTHS.into_iter().zip([DECODED, DECODED + SHARE, DECODED + 2.0 * SHARE]) {
        let height = width * full_height / full_width;
        // Each picture is made from the previous one, which has the same quality as the original and is smaller.
        picture = picture.resize_exact(width, height, FilterType::Lanczos3);
        steps.done(before + SHARE / 3.0, format!("resized to {width} × {height}"))?;
        let mut jpeg = Cursor::new(Vec::new());
        picture.to_rgb8().write_to(&mut jpeg, ImageFormat::Jpeg).map_err(|error| broken(&error))?;
        let jpeg = jpeg.into_inner();
        thumbnails.push(json!({
            "width": width,
            "height": height,
            "bytes": jpeg.len(),
            "sha256": hex(&Sha256::digest(&jpeg)),
        }));
        steps.done(before + SHARE, format!("encoded {} bytes", jpeg.len()))?;
    }
    Ok(json!({"width": full_width, "height": full_height, "thumbnails": thumbnails}))
}

fn broken(error: &image::ImageError) -> TaskError {
    TaskError::fatal("bad_image", error.to_string())
}
