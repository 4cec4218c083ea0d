"""One example of every record of sources, preparation, masking and dataset specifications."""

from __future__ import annotations

from lightmill.records import dataset_spec, fitted, masking, preparation, sources
from lightmill.records.base import Record
from lightmill.records.quality import ColumnRule

CSV = sources.CsvSpec(path="a.csv", delimiter=";")
SOURCES: tuple[Record, ...] = (
    sources.Limits(columns=7),
    sources.FilesSpec(path=("a", "b")),
    sources.TextFilesSpec(path="a", encoding="latin-1"),
    CSV,
    sources.JsonlSpec(format="jsonl", path="a.jsonl"),
    sources.ParquetSpec(format="parquet", path="s3://bucket/*.parquet", endpoint="http://127.0.0.1:1"),
    sources.ArrowSpec(format="arrow", path="a.feather"),
    sources.TextSpec(format="text", path="a.txt", unit="document"),
    sources.ImagesSpec(format="images", path="pictures", table=CSV),
    sources.NumpySpec(format="numpy", path="a.npz"),
    sources.WebdatasetSpec(format="webdataset", path="a.tar", members=("txt",)),
    sources.HuggingfaceSpec(format="huggingface", path="saved"),
    sources.SqlSpec(format="sql", url="sqlite:///a.db", table="t", key="id"),
    sources.DeltaSpec(format="delta", path="table", version=3),
    sources.IcebergSpec(format="iceberg", metadata="m.json", snapshot=4),
    sources.PluginSpec(format="mine", path="x", options={"a": [1]}),
    sources.UnionSpec(fill_nulls=True),
    sources.JoinSpec(how="join", on=("id",)),
)
TOKENIZE = preparation.Tokenize(column="text", file="tokenizer.json")
EXACT = preparation.Deduplicate(columns=("a",))
PREPARATION: tuple[Record, ...] = (
    preparation.Impute(columns=("a",), method="mean"),
    preparation.Clip(columns=("a",), minimum=0.0),
    preparation.Standardize(columns=("a",)),
    preparation.MinMax(columns=("a",)),
    preparation._Encoding(columns=("a",)),
    preparation.OneHot(columns=("a",), values=("x", "y")),
    preparation.Ordinal(columns=("a",)),
    preparation.Replacement(pattern="a+"),
    preparation.TextNormalize(columns=("text",)),
    TOKENIZE,
    preparation.Pack(length=8),
    preparation.ImageDecode(column="image"),
    preparation.ImageResize(column="image", height=8, width=8),
    preparation.Flip(),
    preparation.Crop(padding=1),
    preparation.Noise(std=0.5),
    preparation.TextDropout(probability=0.1),
    preparation.Augment(columns=("image",), operations=(preparation.Flip(),)),
    preparation.Filter(where="a > 1"),
    preparation.Derive(column="b", value="a + 1"),
    EXACT,
    preparation.MadeColumn(name="b", dtype="float32", shape=(2,)),
    preparation.Python(
        function="pkg.mod:function", columns=("a",), makes=(preparation.MadeColumn(name="b", dtype="int64"),)
    ),
    preparation.Features(columns=("a",)),
)
STANDARDIZED = fitted.FittedStandardize(columns=("a",), mean=(1.0,), scale=(2.0,))
FITTED: tuple[Record, ...] = (
    fitted.FittedImpute(columns=("a",), values=(1.5,)),
    fitted.FittedClip(columns=("a",), minimum=(0.0,), maximum=(None,)),
    STANDARDIZED,
    fitted.FittedMinMax(columns=("a",), minimum=(0.0,), range=(1.0,)),
    fitted.FittedOneHot(columns=("a",), categories=(("x", "y"),)),
    fitted.FittedOrdinal(columns=("a",), categories=((1, 2),)),
    fitted.FittedTokenize(declared=TOKENIZE, sha256="ab" * 32, pad_id=0, text="{}"),
    fitted.FittedDeduplicate(declared=EXACT, duplicates=2),
    fitted.FittedPreparation(steps=(STANDARDIZED,)),
    fitted.InputColumn(name="a", dtype="float64"),
    fitted.TokenPreparation(column="tokens", length=8, segments="tokens_segments", vocabulary=9),
    fitted.StoredColumn(name="a", stored="prepared_a", shape=(2, 2, 1)),
    fitted.TrainingPreparation(
        columns=(fitted.StoredColumn(name="a", stored="prepared_a"),),
        fitted=fitted.FittedPreparation(steps=(STANDARDIZED,)),
        makes=("a",),
    ),
    fitted.TabularPreparation(
        columns=(fitted.InputColumn(name="a", dtype="float64"),),
        fitted=fitted.FittedPreparation(steps=(STANDARDIZED,)),
        width=1,
    ),
)
REDACT = masking.RedactRule(columns=("mail",), action="redact")
MASKING: tuple[Record, ...] = (
    masking.SelectionRule(tags=("email",)),
    masking.KeepRule(columns=("a",), action="keep"),
    masking.DropRule(columns=("a",), action="drop"),
    REDACT,
    masking.PartialRule(detectors=("card",), action="partial"),
    masking.PseudonymRule(columns=("a",), action="pseudonym"),
    masking.TokenRule(columns=("a",), action="token"),
    masking.GeneralizeRule(columns=("a",), action="generalize", width=5.0),
    masking.NoiseRule(columns=("a",), action="noise", epsilon=1.0, sensitivity=1.0),
    masking.MaskingPolicy(name="staff", rules=(REDACT,)),
    masking.SignedPolicy(
        policy=masking.MaskingPolicy(name="staff", version=2, rules=(REDACT,)), created="now", publisher="p"
    ),
    masking.MaskedCount(column="mail", detector=None, action="redact", values=3),
    masking.MaskingReport(policy="staff", version=1, fingerprint="ab", rows=4, counts=()),
)
DATASET: tuple[Record, ...] = (
    dataset_spec.FeaturesSpec(shape=(2, 3)),
    dataset_spec.DatasetSpec(
        name="d",
        source=CSV,
        features=dataset_spec.FeaturesSpec(shape=(1,)),
        columns=(
            ColumnRule(name="a", dtype="int64"),
            ColumnRule(name="l", dtype="string", role="label", values=("a", 3)),
        ),
        prepare=(preparation.Standardize(columns=("a",)),),
    ),
)
DATA: tuple[Record, ...] = (*SOURCES, *PREPARATION, *FITTED, *MASKING, *DATASET)
