"""Which encoding a file has, by its bytes, and a decoder that marks the bytes that are not text in it.

A byte is never read as another character than the one that was written: where that cannot be told, it is marked, and
the record that holds it is reported. The rule, which docs/format.md states for users:

1. A byte order mark counts, and zeros in the first two bytes: UTF-16.
2. UTF-8 if the whole file is, or if more than half of its non-ASCII characters are: then the others are damage.
3. GB 18030, of which GBK is a part, if three quarters of the non-ASCII characters are then signs or Chinese characters
   of common use (GB 2312, level 1), and half of the Chinese ones are among the few hundred commonest.
4. Windows-1252 if nine in ten of the non-ASCII characters then stand where one can: a letter of a Western European
   language in a word, a typographic sign in its usual place.
5. Of 3 and 4 both or neither: unknown, and every non-ASCII record is reported.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import lru_cache
from typing import BinaryIO

UNKNOWN = "unknown"

EVIDENCE = 1 << 20  # bytes of strings with non-ASCII characters by which a file is judged
LONGEST_STRING = 1 << 16  # bytes; a longer one is judged in pieces

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# A byte that is not text becomes a lone surrogate, as with `surrogateescape`. Sound text never has one.
_DAMAGED = "conversion-damaged"
_LONE = re.compile("[\udc80-\udcff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# CESU-8: a character beyond U+FFFF as two surrogates of three bytes each, as Java and Oracle write it.
_CESU = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")


def _mark(data: bytes) -> str:
    return "".join(chr(0xDC00 + byte) for byte in data)


def _handle(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    data = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) if byte > 0x7F else chr(byte) for byte in data), error.end


codecs.register_error(_DAMAGED, _handle)


def is_marked(text: str) -> bool:
    """Whether a text holds bytes that are not text."""
    return _LONE.search(text) is not None


def unmarked(text: str) -> str:
    """Text for people: marked bytes as `\\xNN`, other halves of characters as `\\uNNNN`."""
    text = _LONE.sub(lambda lone: f"\\x{ord(lone[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


# --- recognising -----------------------------------------------------------------------------------------------------


def encoding_of(open_stream: Callable[[], BinaryIO], size: int) -> str:
    """utf-8, utf-8-sig, utf-16 (-le, -be), gb18030, windows-1252 or unknown. Reads `size` bytes at a time."""
    with open_stream() as stream:
        data = stream.read(max(size, 4))
        for mark, encoding in _MARKS:
            if data.startswith(mark):
                return encoding
        # JSON begins with an ASCII character. A file of which one byte was zeroed has no other zeros.
        if len(data) >= 2 and 0 in data[:2] and any(data[:2]) and 4 * data[:64].count(0) > len(data[:64]):
            return "utf-16-be" if data[0] == 0 else "utf-16-le"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while data:
                decoder.decode(data)
                data = stream.read(size)
            decoder.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError:
            pass
    with open_stream() as stream:
        return judged(_evidence(stream, size))


def _evidence(stream: BinaryIO, size: int) -> bytes:
    """The file's strings that are not ASCII, as far as they are needed."""
    evidence = bytearray()
    rest = b""
    while len(evidence) < EVIDENCE:
        data = stream.read(size)
        *whole, rest = re.split(rb'["\r\n]', rest + data)
        if not data or len(rest) > LONGEST_STRING:
            whole, rest = [*whole, rest], b""
        for string in whole:
            if not string.isascii():
                evidence += string + b"\n"
        if not data:
            break
    return bytes(evidence)


def judged(data: bytes) -> str:
    """The encoding of bytes that are not UTF-8 throughout: utf-8, gb18030, windows-1252 or unknown."""
    text = TextDecoder("utf-8").decode(data, final=True)
    damaged = len(_LONE.findall(text))
    if len(_NOT_ASCII.findall(text)) > 2 * damaged:
        return "utf-8"
    is_chinese, is_western = _is_chinese(data), _is_western(data)
    if is_chinese == is_western:
        return UNKNOWN
    return "gb18030" if is_chinese else "windows-1252"


def _is_chinese(data: bytes) -> bool:
    text = data.decode("gb18030", _DAMAGED)
    others = _NOT_ASCII.findall(text)
    common = [character for character in others if character in _characters().common]
    chinese = [character for character in common if character > "\u4e00"]
    frequent = sum(character in _FREQUENT for character in chinese)
    return 4 * len(common) >= 3 * len(others) and frequent >= max(2, len(chinese) / 2)


def _is_western(data: bytes) -> bool:
    text = data.decode("windows-1252", _DAMAGED)
    return 10 * len(_LONE.findall(_checked_western(text))) <= len(_NOT_ASCII.findall(text))


# --- decoding --------------------------------------------------------------------------------------------------------


class TextDecoder:
    """Decodes a file piece by piece. Bytes that are not text in its encoding, or in doubt, come out marked."""

    def __init__(self, encoding: str) -> None:
        self.encoding = "utf-8" if encoding == UNKNOWN else encoding
        self._decoder = codecs.getincrementaldecoder(self.encoding)(_DAMAGED)
        self._rest = b""

    def decode(self, data: bytes, final: bool) -> str:
        """The next characters. `final`: whether no more data follows."""
        if self.encoding in ("gb18030", "windows-1252"):
            data, self._rest = self._rest + data, b""
            if not final:  # whether a character is in doubt depends on its neighbours in its string
                end = max(data.rfind(b'"'), data.rfind(b"\n")) + 1
                if end or len(data) < LONGEST_STRING:
                    data, self._rest = data[:end], data[end:]
            text = self._decoder.decode(data, final)
            return _checked_chinese(text) if self.encoding == "gb18030" else _checked_western(text)
        if b"\xed" in data or self._rest:
            data = self._without_cesu(self._rest + data, final)
        return self._decoder.decode(data, final)

    def _without_cesu(self, data: bytes, final: bool) -> bytes:
        self._rest = b""
        if self.encoding not in ("utf-8", "utf-8-sig"):
            return data
        if not final:
            behind = max((match.end() for match in _CESU.finditer(data)), default=0)
            cut = data.find(b"\xed", max(behind, len(data) - 5))
            if cut >= 0:
                data, self._rest = data[:cut], data[cut:]
        return _CESU.sub(lambda pair: _joined(pair[0]).encode(), data)


def _joined(pair: bytes) -> str:
    """The character that two surrogates in CESU-8 stand for."""
    return pair.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16")


def _checked_chinese(text: str) -> str:
    """Text in which characters beyond GB 2312 and the signs of GBK are marked.

    Half a character that has lost its other half swallows the next byte, and makes such a character of both.
    """
    return text if text.isascii() else _characters().doubtful.sub(lambda match: _mark_character(match, "gb18030"), text)


def _mark_character(match: re.Match[str], encoding: str) -> str:
    character = match[0]
    if _LONE.match(character):
        return character
    return "".join(_mark(bytes([byte])) if byte > 0x7F else chr(byte) for byte in character.encode(encoding))


class _Characters:
    """The characters of GB 2312 and GBK by how common they are."""

    def __init__(self) -> None:
        signs = self._decoded(range(0xA1, 0xAA), [*range(0x40, 0x7F), *range(0x80, 0xFF)])
        level_1, level_2 = (self._decoded(rows, range(0xA1, 0xFF)) for rows in (range(0xB0, 0xD8), range(0xD8, 0xF8)))
        punctuation = self._decoded((0xA1, 0xA3), range(0xA1, 0xFF))
        self.common = frozenset(level_1 + punctuation)
        self.doubtful = re.compile(f"[^\x00-\x7f{re.escape(signs + level_1 + level_2)}]")

    @staticmethod
    def _decoded(leads: range | tuple[int, ...], trails: range | list[int]) -> str:
        data = b"".join(bytes((lead, trail)) for lead in leads for trail in trails)
        return re.sub(r"[\ue000-\uf8ff]", "", data.decode("gb18030", "ignore"))  # without private characters


@lru_cache(maxsize=1)
def _characters() -> _Characters:
    return _Characters()


# Letters of Western European languages. Those that are others in the encodings of Central Europe and of Turkey are
# missing (š, ž, ý, þ, ð, ÿ): Czech and Turkish text in its own encoding is full of them.
_LOWER, _UPPER = "áâäàãåæçéèêëíîïìñóôöòõøúûüùßœ", "ÁÂÄÀÃÅÆÇÉÈÊËÍÎÏÌÑÓÔÖÒÕØÚÛÜÙŒ"
_LETTER = "A-Za-zÀ-ÖØ-öø-ÿŠšŽžŒœŸƒ"
_STRANGE = _LETTER.removeprefix("A-Za-z")
_WORD = re.compile(f"(?<![{_LETTER}])[A-Za-z]*[{_STRANGE}][{_LETTER}]*")
_WESTERN_WORD = re.compile(f"[a-z{_LOWER}]+|[A-Z{_UPPER}][a-z{_LOWER}]*|[A-Z{_UPPER}]+")
_MISPLACED = re.compile(f"[ìùòÌÙÒ](?=[{_LETTER}])|[õÕ](?![eE])")  # in Western languages; but Czech and Hungarian
_ALONE = frozenset("àáâäåéèêëíîïóôöòúùûüÀÁÂÄÅÉÈÓÔÖ")  # words of one letter, and initials
# Signs where they usually stand. A sign elsewhere comes from another encoding: `¿` within a word is Polish `ż`, and `¡`
# after a digit is `°` from a Mac.
_SIGN = re.compile(
    r"""(?P<usual>
        (?<![A-Za-z\d])[‘“](?=[\w¿¡«$£€(\['"‘“.…-])   # an opening quote
      | (?<=[\w.,;:!?%°²³»)\]'"’…-])[’”]              # a closing one, or an apostrophe
      | (?<![^\s(\["])’(?=\w)                         # '90s
      | (?<=[\w.,;:!?%°’”')\]])[ ]?[–—](?=[ ]?[\w“‘'(])
      | (?<![^\s"])[–—•·](?=\s|\d) | (?<=\w)[·](?=\w) | (?<=[\d ])[·](?=[\d ])
      | …(?![A-Za-z]) | (?<=\w)[™®©] | (?<![A-Za-z\d])[©§](?=[ ]?[\w(])
      | (?<=\d)[ ]?[€£¥¢°º‰×±÷] | [€£¥±×÷](?=[ ]?\d) | °(?=[CFKNESW]\b) | (?<=\d)[ªº](?![a-z])
      | (?<=[A-Za-z\d)])[²³¹](?![A-Za-z\d]) | (?<![A-Za-z])[µ](?=[mgslAVW]) | (?<![A-Za-z])[¼½¾](?![A-Za-z])
      | (?<![A-Za-z\d])[«¿¡](?=\s?\w) | (?<=[\w.!?…])\s?»
      | \xa0
    )|[^\x00-\x7f]""",
    re.X,
)


def _checked_western(text: str) -> str:
    """Text in which non-ASCII characters that do not stand where they can are marked."""
    if text.isascii():
        return text
    text = _WORD.sub(_checked_word, text)
    return _SIGN.sub(_checked_sign, text)


def _checked_word(match: re.Match[str]) -> str:
    text, begin, end = match.string, match.start(), match.end()
    begin += text[max(0, begin - 1) : begin] == "\\"  # `\nÉcole`: the letter belongs to JSON's escape
    word = text[begin:end]
    strange = _NOT_ASCII.findall(word)
    beside_digit = text[begin - 1 : begin].isdigit() or text[end : end + 1].isdigit()
    if (
        not beside_digit
        and _WESTERN_WORD.fullmatch(word)
        and not _MISPLACED.search(word)
        and (2 * len(strange) <= len(word) or word in _ALONE)
    ):
        return match[0]
    return _NOT_ASCII.sub(lambda character: _mark_character(character, "windows-1252"), match[0])


def _checked_sign(match: re.Match[str]) -> str:
    if match["usual"] or _WORD.match(match[0]):  # words have been looked at
        return match[0]
    return _mark_character(match, "windows-1252")


# The commonest Chinese characters: of general text in about their order, then of descriptions of aerial images, then of
# the provinces and large cities of China, which scenes are named after. Half of
# the characters of any Chinese sentence are among them, but one in six of the characters that another encoding's bytes
# happen to give.
_FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成"
    "方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工"
    "使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表"
    "化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结"
    "反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难"
    "且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笔阶级质热流改北转"
    "林土村城农田河湖岛桥港湾船机飞场跑站楼房屋街道庄园草沙石雪雾夜云影卫星图遥感航拍摄像素分辨率精超低可红近雷达波段植被森"
    "耕旱稻麦湿裸荒漠居住宅商厂仓库油罐塔坝渠池塘运动操篮足球网铁公高速立交停车辆集装箱码头油轮货渔军舰示显密稀疏绿蓝黑灰黄"
    "片块条座栋棵排列围周边旁附左右顶底角央里方向前后许些几几乎覆盖包含位分布散落环绕穿连靠"
    "武汉京津沪渝冀晋蒙辽吉苏浙皖闽赣鲁豫鄂湘粤桂琼川贵藏陕甘宁港澳台州深圳杭昆福厦肥郑济沈哈滨春庄兰萨乌木齐徽疆徐锡温"
)
