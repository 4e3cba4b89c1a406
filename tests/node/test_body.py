"""Compressed bodies are inflated within bounds, or refused with the reason."""

import gzip
import zlib

import pytest

from node.api.http.body import BODY_BYTES, BodyTooLargeError, UnsupportedEncodingError, inflate
from node.errors import InvalidRequestError

TEXT = b'{"prompt": "Once upon a time"}' * 10
RAW = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT, 1)),
        ("deflate", RAW.compress(TEXT) + RAW.flush()),
    ],
)
def test_body_is_inflated(encoding: str, body: bytes) -> None:
    """Bodies in gzip and in deflate, with and without its header, are inflated."""
    assert inflate(body, encoding) == TEXT


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,br", "x" * 9000])
def test_encoding_that_is_not_supported_says_which_are(encoding: str) -> None:
    """An unsupported encoding is a short 415 with `Accept-Encoding`, as in RFC 9110."""
    with pytest.raises(UnsupportedEncodingError, match="use gzip, deflate or none") as refused:
        inflate(TEXT, encoding)
    assert refused.value.status == 415
    assert refused.value.headers() == {"Accept-Encoding": "gzip, deflate"}
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_inflated_body_is_bounded(encoding: str) -> None:
    """A bomb takes no more memory than the largest allowed body, which is accepted."""
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    assert len(inflate(compress(bytes(BODY_BYTES)), encoding)) == BODY_BYTES
    with pytest.raises(BodyTooLargeError) as refused:
        inflate(compress(bytes(BODY_BYTES + 1)), encoding)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("encoding", "body", "told"),
    [
        ("gzip", TEXT, "not gzip"),
        ("gzip", b"", "is truncated"),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-1], "is truncated"),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-8] + bytes(8), "not gzip"),
        ("gzip", gzip.compress(TEXT, mtime=0) * 2, "continues after the end"),
        ("deflate", b"\xff" * 20, "not deflate"),
        ("deflate", zlib.compress(TEXT)[:20], "is truncated"),
        ("deflate", zlib.compress(TEXT) + b"x", "continues after the end"),
    ],
)
def test_broken_body_is_refused(encoding: str, body: bytes, told: str) -> None:
    """A body that does not inflate completely is a 400 with the reason."""
    with pytest.raises(InvalidRequestError, match=told) as refused:
        inflate(body, encoding)
    assert refused.value.status == 400
