"""Every configuration composes and instantiates; each misfit raises one sentence."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate

from src.config.build import build_data, build_inference_network, build_restorer, build_trainer, build_training_network
from src.config.composition import CONF, compose, explain, to_plain
from src.config.resolvers import depth, run_name, width
from src.config.run_names import name_overrides
from src.config.signatures import signature_of
from src.config.validation import validate
from src.errors import UserError
from src.nn.blocks import count_parameters
from tests.command_line import call

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
MODELS = sorted({path.stem for path in (CONF / "model").glob("[!_]*.yaml")} - {"cascade"})  # of trained networks
DATA = sorted({path.stem for path in (CONF / "data").glob("[!_]*.yaml")} - {"paired"})  # of files that exist


@pytest.mark.long
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("size", ["full", "mini"])
def test_every_experiment_instantiates(experiment, size):
    config = compose(f"experiment={experiment}", f"size={size}", "logger=csv", "checkpoint=null")
    validate(config)
    if "stages" in config.model.network and not config.model.network.stages:  # whatever somebody has trained
        config.model.network.stages = [{"_target_": "src.papers.baselines.Blend"}]
    network = build_inference_network(config)
    restorer = build_restorer(config, network)
    data = build_data(config, restorer)
    assert restorer.network is network
    assert data.geometry == restorer.geometries[-1]
    assert restorer.geometries[0] == network.geometry
    assert data.degradation.scale == network.geometry.scale
    if restorer.optimizer:
        assert restorer.optimizer(network.parameters()).defaults["lr"] > 0
    assert to_plain(config.trainer)["max_steps"] > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", ["full", "mini"])
def test_every_model_restores(model, size):
    config = compose(f"model={model}", f"size={size}")
    network = build_inference_network(config)
    geometry = network.geometry
    if size == "full" and count_parameters(network):
        return  # instantiated; its numbers are checked in tests/papers
    out = network(torch.rand(1, geometry.window, 3, 8, 12))
    assert out.shape == (1, len(geometry.times), 3, 8 * geometry.scale, 12 * geometry.scale)


@pytest.mark.parametrize("interpolate", ["naive", "deformable"])
@pytest.mark.parametrize("aggregate", ["none", "convlstm", "deformable_convlstm", "bidirectional"])
@pytest.mark.parametrize("guide", ["none", "synthesis"])
def test_the_parts_of_table_5_are_groups(interpolate, aggregate, guide):
    config = compose(
        "size=mini",
        f"model/network/interpolate={interpolate}",
        f"model/network/aggregate={aggregate}",
        f"model/network/guide={guide}",
    )
    network = build_inference_network(config)
    assert (network.guide is None) == (guide == "none")
    assert network(torch.rand(1, 2, 3, 4, 4)).shape == (1, 3, 3, 16, 16)


@pytest.mark.parametrize("data", DATA)
def test_every_data_set_instantiates(data):
    extra = ["data.root=somewhere"] if data == "folder" else []
    config = compose(f"data={data}", "task=evaluate", *extra)
    blend = compose("model=blend")
    assert build_data(config, build_restorer(blend, build_inference_network(blend))).batch_size > 0


@pytest.mark.parametrize("group", ["protocol", "degradation"])
def test_every_choice_instantiates(group):
    for path in (CONF / group).glob("[!_]*.yaml"):
        node = compose(f"{group}={path.stem}")[group]
        made = instantiate(node)
        assert str(made)


def test_benchmarks_bring_their_protocol():
    assert compose("data=vid4").protocol.channel == "y"
    assert compose("data=vid4", "protocol=vid4_wdvr").protocol.crop == 4
    assert compose("experiment=zsm_vimeo", "data=vid4").protocol.name == "vid4"
    assert compose("experiment=zsm_vimeo").protocol.name == "vimeo90k"


@pytest.mark.long
def test_baselines_stand_in_for_the_model_of_an_experiment():
    for experiment in EXPERIMENTS:
        assert compose(f"experiment={experiment}", "model=blend").model.network._target_.endswith("Blend")


def test_sizes():
    full, mini = compose("model=zsm"), compose("model=zsm", "size=mini")
    assert to_plain(full.model.network)["reconstruct"]["blocks"] == 40
    assert to_plain(full.model.network)["aggregate"]["recurrence"]["channels"] == 64
    assert to_plain(mini.model.network)["aggregate"]["recurrence"]["channels"] == width(64, _root_=mini) < 64
    assert depth(1, _root_=mini) == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("modle=zsm", r"^There is no option 'modle': did you mean model\?$"),
        ("trainer.max_step=3", r"^There is no option 'trainer\.max_step': did you mean trainer\.max_steps\?$"),
        (
            "model.network.encod.blocks=3",
            r"no option 'model\.network\.encod\.blocks': did you mean model\.network\.encode\?",
        ),
        ("seed.x=3", r"no option 'seed\.x': "),
        ("paths.zzzzzz=3", r"^There is no option 'paths\.zzzzzz': paths has data, runs\.$"),
        ("model=zms", r"^There is no model=zms: did you mean model=zsm\?$"),
        ("experiment=zsm_vimo", r"^There is no experiment=zsm_vimo: did you mean experiment=zsm_vimeo\?$"),
        ("model=3", r"no model=3: choose one of bicubic, "),
        ("test=null", r"no test=null: choose one of "),
        ("data=[vid4,moon]", r"no data=moon: choose one of "),
        ("data=vid5", r"^There is no data=vid5: did you mean data=vid4\?$"),
        ("degradation.every=2", r"^degradation\.every has no value yet.*: \+degradation\.every=<value>\.$"),
        ("callbacks.samples.clip=3", r"did you mean \+callbacks\.samples\.clips\?"),
        ("+data.crop=64", r"^data\.crop has a value already: leave out the \+"),
        (
            "model.network.encode={channel: 8}",
            r"no option 'model\.network\.encode\.channel': did you mean .*\.channels\?",
        ),
        ("~data.crp", r"no option 'data\.crp': did you mean data\.crop\?"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_nearest_name(override, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        compose(override)
    assert "\n" not in str(caught.value)


def test_a_typo_beside_another_is_named():
    with pytest.raises(UserError, match=r"no option 'model\.network\.encode\.block': did you mean"):
        compose("model.network.encode._target_=nowhere.x", "model.network.encode.block=1")


def test_a_choice_that_is_a_number_is_named_beside_valid_ones():
    with pytest.raises(UserError, match=r"no size=1\.5: choose one of full, mini\b"):
        compose("model=zsm", "size=1.5", "seed=3")


def test_run_names():
    choices = compose().copy()
    choices = type(choices)({"experiment": "zsm_vimeo", "task": "train"})
    assert run_name(choices, ["experiment=zsm_vimeo", "seed=3", "resume=true"]) == "zsm_vimeo"
    named = run_name(choices, ["size=mini", "data=folder", "data.root=/some/where/clips", "paths.runs=/x"])
    assert re.fullmatch(r"zsm_vimeo/data=folder,data\.root=clips-\w{6},size=mini", named)
    other = run_name(choices, ["size=mini", "data=folder", "data.root=/else/where/clips"])
    assert other != named  # two folders of one name are two runs
    long = run_name(choices, [f"model.option{i}={i}" for i in range(40)])
    assert len(long.split("/")[1]) <= 80
    choices = type(choices)({"experiment": None, "task": "evaluate"})
    assert run_name(choices, ["task=evaluate", "model=bicubic"]) == "evaluate/model=bicubic"


@pytest.mark.parametrize(
    "path", ["runs/a=1,b=2/seed=0/last.ckpt", "it's here.mp4", "a b (c).mp4", "{x}.png", "C:\\v.mp4"]
)
def test_paths_need_no_quotes(path):
    assert compose(f"checkpoint={path}").checkpoint == path


def test_contradictions_are_rejected_before_data_is_read():
    config = compose("model=zsm", "size=mini", "degradation=bicubic_x2", "data=vid4", "data.root=nowhere")
    with pytest.raises(UserError, match="upscales by 4"):
        build_data(config, build_restorer(config, build_inference_network(config)))


def test_a_protocol_that_does_not_suit_the_network_is_one_sentence():
    config = compose("model=edvr_m", "size=mini", "protocol=vid4_zsm_3")
    with pytest.raises(UserError, match="does not suit this network: a network with a window of 5"):
        build_restorer(config, build_inference_network(config))
    assert compose("protocol=reds4", "protocol.ensemble=4").protocol.ensemble == 4


def test_a_missing_required_option_is_named():
    with pytest.raises(Exception, match="checkpoint is needed here"):
        _ = compose("experiment=wdvr_reds_finetune").checkpoint
    assert compose("experiment=wdvr_reds_finetune", "checkpoint=a.ckpt").checkpoint == "a.ckpt"


def test_a_list_of_checkpoints_whose_paths_are_like_those_of_runs():
    files = ["runs/a/data=folder,size=mini/seed=0/last.ckpt", "other runs/b.pth"]
    for given in (f"[{','.join(files)}]", "['" + "','".join(files) + "']"):
        config = compose("model=cascade", f"model.network.stages={given}")
        assert list(config.model.network.stages) == files
    one, two = (name_overrides([f"model.network.stages=[{file}]"]) for file in files)
    assert one.startswith("model.network.stages=last.ckpt-")
    assert two.startswith("model.network.stages=b.pth-")


@pytest.mark.parametrize(
    "group", ["task", "model", "data", "degradation", "protocol", "trainer", "callbacks", "logger"]
)
def test_every_choice_is_valid(group):
    for path in sorted((CONF / group).glob("[!_]*.yaml")):
        validate(compose(f"{group}={path.stem}"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+model.optimizer.lrr=1"], r"^model\.optimizer has no option lrr \(torch\.optim\.Adam\): did you mean lr\?$"),
        (["+callbacks.average.dekay=0.9"], r"callbacks\.average has no option dekay .*did you mean decay\?$"),
        (["+callbacks.sampels.clips=1"], r"callbacks\.sampels has no _target_, .*did you mean samples\?$"),
        (["+data.layout.trian=3"], r"data\.layout has no option trian .*did you mean train\?$"),
        (["+model.network.guide.block=3"], r"model\.network\.guide has no option block .*did you mean blocks\?$"),
        (["+model.network._partail_=true"], r"model\.network has no option _partail_ .*did you mean _partial_\?$"),
        (["+loggr.x=1"], r"^The configuration has no option loggr.*did you mean logger\?$"),
        (["+size.widht=1"], r"^size has no option widht: did you mean width\?$"),
        (["task=bench", "+bench.hight=1"], r"^bench has no option hight: did you mean height\?$"),
        (
            ["model.network.encode._target_=src.nn.encode.FrameEncodr"],
            r"has no FrameEncodr: did you mean FrameEncoder\?$",
        ),
        (["model.network._target_=src.papers.zms.ZSM"], r"src\.papers has no zms: did you mean zsm\?$"),
        (["model.optimizer._target_=toch.optim.Adam"], r"there is no module toch: "),
        (["model=edvr_m", "model.rates.deformable.modules.kind.path=src.nn.align.DeformablePak"], r"DeformablePack\?$"),
        (
            ["~model.network.encode.channels"],
            r"^model\.network\.encode lacks channels \(src\.nn\.encode\.FrameEncoder\)",
        ),
        (
            ["model.network.frames=${model.network.fames}"],
            r"^model\.network\.frames refers to an option that does not exist .*fames",
        ),
        (["data.crop=abc"], r"^data\.crop is 'abc', but must be a whole number\.$"),
        (["data.flip=1"], r"^data\.flip is 1, but must be true or false\.$"),
        (["data.batch_size=-1"], r"^data\.batch_size is -1, but must be at least 1\.$"),
        (["trainer.max_steps=1.5"], r"^trainer\.max_steps is 1\.5, but must be a whole number\.$"),
        (["trainer.max_steps=6e5"], r"must be a whole number: write 600000\.$"),
        (["trainer.precision=bf17"], r"^trainer\.precision is 'bf17'.*did you mean bf16\?$"),
        (
            ["protocol.edges=reflekt"],
            r"^protocol\.edges is 'reflekt', but must be replicate, reflect, new_info or none: did you mean reflect\?$",
        ),
        (["protocol.skip=[1,a]"], r"^protocol\.skip\.1 is 'a', but must be a whole number\.$"),
        (["protocol.skip=[1]"], r"^protocol\.skip is \[1\], but must be a list of 2, each a whole number\.$"),
        (["model.loss=l1"], r"^model\.loss is 'l1', but must be an object with a _target_\.$"),
        (["model=edvr_m", "+model.rates.deformabel.factor=1"], r"^model\.rates\.deformabel is .*but must be an object"),
        (["model=vtsr", "model.weights.l1=much"], r"^model\.weights\.l1 is 'much', but must be a number\.$"),
        (["seed=-1"], r"^seed is -1, but must be from 0 to 4294967295\.$"),
        (["size.width=abc"], r"^size\.width is 'abc', but must be a number\.$"),
        (["task=bench", "bench.models=zsm"], r"^bench\.models is 'zsm', but must be a list, each text or null\.$"),
        (["task=report", "report.clips=many"], r"^report\.clips is 'many', but must be a whole number\.$"),
        (["+data.seed=3"], r"^data\.seed \(.*\) is set automatically"),
        (["+trainer.logger=false"], r"^trainer\.logger \(.*\) is set automatically"),
        (["+model.optimizer.extra={5: 3}"], r"^model\.optimizer has no option extra "),
        (["+callbacks.5={6: 7}"], r"^callbacks\.5 has no _target_, "),
        (["task._target_=os.system"], r"^task lacks command \(os\.system\)"),
        (["task._target_=src.tasks.train"], r"^task\._target_ is src\.tasks\.train, which cannot be called"),
    ],
)
def test_options_that_do_not_fit_their_signature_are_rejected(overrides, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        validate(compose(*overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.precision=32"],  # a name that looks like a number
        ["protocol.precision=16"],
        ["data.workers=null", "data.noise=1"],  # whole numbers are numbers
        ["+own.rate=3e-4", "model.optimizer.lr=${own.rate}"],  # refers to what is one's own
        ["logger=wandb", "+logger.wandb.entity=me"],  # which goes on to wandb.init
        ["model.network.interpolate._target_=torch.nn.Identity"],  # takes anything
        ["+model.optimizer.weight_decay=0.1"],
        ["degradation=jpeg", "degradation.steps.1.quality=[10,40]"],
        ["model=cascade", "model.network.stages=[a.ckpt,b.ckpt]"],
        ["callbacks.average=null"],
        ["experiment=wdvr_reds_finetune"],  # whose checkpoint its task asks for
        ["task=restore"],  # likewise its input
        ["data=folder"],
    ],
)
def test_options_that_fit_are_accepted(overrides):
    validate(compose(*overrides))


def test_a_parent_class_receives_the_options_of_its_child():
    assert {"decay", "use_buffers"} <= signature_of("src.training.callbacks.WeightEMA").kinds.keys()
    assert "loss" in signature_of("src.papers.zsm.ZSMRestorer").kinds
    assert not signature_of("src.papers.zsm.ZSMRestorer").further
    assert not signature_of("src.papers.vtsr.Equally").kinds


@pytest.mark.long
def test_typos_in_an_experiment_file_are_rejected(tmp_path):
    """Hydra lets files add what they like."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndata: {crp: 64}\n")
    done = call(f"--config-dir={tmp_path}", "experiment=mine", f"paths.runs={tmp_path}/r")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "data has no option crp (src.data.datamodule.DataModule): did you mean crop?\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("model=vtsr data=reds", r"upscales by 1, but the degradation \(bicubic x4\) downscales by 4"),
        ("model=edvr_m degradation=blur", r"upscales by 4, but the degradation \(exposure 5\) downscales by 1"),
        ("model=edvr_m degradation=exposure", "upscales by 4"),
        ("model=zsm +degradation.every=1", r"time 1/2 of its input frames.*degradation\.every to a multiple of 2"),
        ("model=edvr_m model.network.fuse.frames=7", r"not fit together at model\.network\.fuse\.attend\.enter: "),
        ("model=edvr_m model.network.fuse.channels=24", r"not fit together at model\.network\.fuse\.weigh"),
        ("model=zsm model.network.guide.channels=8", r"not fit together at model\.network\.guide\.trunk"),
        (
            "model=edvr_m model.network.frames=6",
            r"^Cannot instantiate model\.network \(src\.papers\.edvr\.EDVR\): the number of frames",
        ),
        ("model=edvr_m model.network.frames=9 data=vimeo90k", "takes 9 source frames, and every clip .* has 7: "),
        ("model=wdvr3d data=vimeo90k", "takes 20 source frames, and every clip of vimeo90k has 7: "),
        ("model=dsfn data=vimeo90k degradation=adobe240", "takes 35 source frames, and every clip .* has 7: "),
        ("model=zsm data=vid4", "vid4 has only test clips"),
        ("model=zsm data=gopro recipe=vtsr", r"data\.resize works only at scale 1 \(here 4\): set data\.resize=null"),
        ("model=zsm data.span=2", r"data\.span is 2 source frames, but a sample of this network needs 7"),
        ("data.crop=97", r"data\.crop=97 must be a multiple of the network's scale, 4"),
        ("data.batch_size=3 data.patches_per_read=2", "must be a multiple of the other"),
        ("protocol.factor=2", "factor=2 does not suit this network"),
        ("model.optimizer.betas=[0.9,1.5]", r"^model\.optimizer failed when called.*Invalid beta"),
        ("+model.schedule.step=3", r"^model\.schedule failed when called.*multiple values"),
        (
            "model=edvr_m model.rates.fusion_first.modules.parts=[fusion]",
            "no part fusion: its parts are encode, align, fuse",
        ),
    ],
)
def test_contradictions_are_found_without_any_data(overrides, sentence):
    config = compose("size=mini", "data.root=nowhere", *overrides.split())
    with pytest.raises(Exception, match=r".") as caught:
        build_data(config, build_restorer(config, build_inference_network(config)))
    told = str(caught.value) if isinstance(caught.value, UserError) else explain(caught.value)  # as the command does
    assert re.search(sentence, told), told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["trainer.strategy=dpp"], r"did you mean trainer\.strategy=ddp\?$"),
        (["trainer.accelerator=gpuu"], r"did you mean trainer\.accelerator=gpu\?$"),
        (["trainer.max_steps=-5"], r"`max_steps` must be a non-negative integer"),
        (["trainer.accelerator=cpu", "trainer.devices=0"], r"devices=0.*correct this option of trainer"),
        (
            ["callbacks.best.monitor=validate/psrn"],
            r"callbacks\.best\.monitor is validate/psrn, but no task logs it: did you mean validate/psnr\?$",
        ),
    ],
)
def test_an_impossible_trainer_is_one_sentence(overrides, sentence, tmp_path):
    config = compose("callbacks.progress=null", *overrides)
    with pytest.raises(UserError, match=sentence) as caught:
        build_trainer(config, tmp_path, training=True)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_the_dry_run_leaves_the_network_unchanged():
    config = compose("model=vtsr", "size=mini", "degradation=exposure")
    network = build_training_network(config)  # with the running statistics of normalisations
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    build_restorer(config, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.long
def test_checking_takes_no_time():
    """In a process that has just begun, beyond the import of what the objects are made of."""
    program = (
        "import time, src.tasks.train, src.data.datamodule\n"
        "from src.config.composition import compose; from src.config.validation import validate\n"
        "config = compose('experiment=zsm_vimeo'); start = time.process_time()\n"
        "validate(config); print(time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5
