"""The Chinese text of docs/keys.zh-CN.md. A new key needs a line here as in declarations.py."""

from __future__ import annotations

from meru.configuration.kinds import (
    Architecture,
    Choice,
    Either,
    FilePath,
    Flag,
    Kind,
    ListOf,
    Number,
    Section,
    Template,
    Text,
    Whole,
)

HEAD = """# 配置键

由 `python scripts/document_keys.py` 根据 meru/configuration 和 configs/ 生成，请勿手动修改。英文版：[keys.md](keys.md)。

命令行写法：`key=value`；所选文件中没有的键写作 `+key=value`；`~key` 删去一个键。任何值都在开始做事之前检查。整数不带小数点：
`4.0` 不是整数。数不能是 NaN 或无穷。相对路径从当前目录算起，`~` 是主目录；路径和文本按原样读取，可以含中文、空格（需为 shell 加引号）、
方括号和逗号。列表写作 `'data.crop_scale=[0.5,1.0]'`。使用 `--multirun` 时逗号分隔多个值，因此含逗号的值自己还要加引号：`'folder="a,b"'`。

*默认值*：不选配方时的值；`experiment=…` 的配方会另设一些值，加上 `--cfg job` 可以看到一条命令最终得到的配置。configs/ 中各文件不同时，
值取决于所选的文件，这里列出几个。*续训*："固定"表示续训时不能改成别的值，"生效"表示新的值从续训起生效。

要在 configs/ 中加一个键，先在 meru/configuration/declarations.py 和 chinese.py 中各写一行。
"""
HEADINGS = {
    "": "不属于任何小节的键",
    "trainer": "trainer：训练多久，怎样训练",
    "evaluation": "evaluation：评测指标",
    "data": "data：图像、描述、批次",
    "encoder": "encoder：两个编码器",
    "model": "model：模型",
    "loss": "loss：各项损失的权重和设置",
    "parts": "parts：批次中除图像和描述以外的内容，用于 model=hycoclip",
    "discovery": "discovery：类别发现，用于 model=simgcd 和 hypgcd",
    "optim": "optim：优化器和学习率",
    "logger": "logger：日志",
}
COLUMNS = {
    "key": "键",
    "default": "默认值",
    "allowed": "取值",
    "resume": "续训",
    "meaning": "含义",
    "fixed": "固定",
    "acts": "生效",
    "figures": "trainer.monitor 可选的指标",
    "evaluate": "scripts/evaluate.py",
    "class": "按类别的数据集（描述中提到部位的数据集还有 `pointing/…`）：",
    "identity": "行人数据集：",
}
UNITS = {
    "batches": "批", "blocks": "块", "captions": "条描述", "cells": "格", "classes": "类", "dimensions": "维", "epochs": "轮",
    "images": "张图像", "operations": "个操作", "patches": "个图像块", "persons": "人", "pixels": "像素", "points": "点",
    "probability": "概率", "processes": "个进程", "red, green, blue": "红、绿、蓝", "seconds": "秒", "share": "比例",
    "share of the highest": "占最高学习率的比例", "shares": "比例", "shares of the box": "占边界框的比例", "steps": "步",
    "tokens": "个词元", "triplets": "个三元组", "units": "个单元", "views": "个视图",
}  # fmt: skip


def allowed(kind: Kind) -> str:
    """What a key of that kind may be, as `Kind.allowed` says it in English."""
    if isinstance(kind, Whole):
        return f"{'整数' if kind.step == 1 else f'{kind.step} 的倍数'}，{kind.least} 到 {kind.most}"
    if isinstance(kind, Number):
        if kind.least == kind.most:
            return f"{kind.least:.10g}"
        if not (kind.above or kind.below):
            return f"数，{kind.least:.10g} 到 {kind.most:.10g}"
        low, high = "大于" if kind.above else "不小于", "小于" if kind.below else "不大于"
        return f"数，{low} {kind.least:.10g}，{high} {kind.most:.10g}"
    if isinstance(kind, ListOf):
        count = f"{kind.least} 个值" if kind.least == kind.most else f"至少 {kind.least} 个值" if kind.least else "个数不限"
        order = "，小的在前" * kind.ascending + "，互不相同" * kind.different
        return f"列表，如 {kind.example}：{count}，每个为{allowed(kind.item)}{order}"
    if isinstance(kind, Either):
        return "，或 ".join(allowed(each) for each in kind.kinds)
    if isinstance(kind, Choice):
        *others, last = kind.words
        return f"{'、'.join(others)} 或 {last}" if others else last
    return PLAIN_KINDS.get(kind.allowed) or PLAIN_KINDS[type(kind)]


PLAIN_KINDS = {
    Flag: "true 或 false",
    FilePath: "路径",
    Text: "文本",
    Template: "用 {} 代替类别名的句子",
    Architecture: "层数、宽度和头数，如 L12_W512_A8，宽度是头数的倍数，最大 L200_W16384",
    Section: "一节键",
    "the path of a folder": "文件夹的路径",
    "the path of a file": "文件的路径",
    "the dotted path of a class or function": "类或函数的点分路径",
    "a figure of the validation split": "验证集上的一个指标",
    "a tag of open_clip": "open_clip 的权重标签",
    "a number, a text, true, false, or a list or section of such": "数、文本、true、false，或由它们组成的列表或小节",
}


def meaning(key: str, *, command: str) -> str:
    """The explanation of a key of `train` or `evaluate`; KeyError where there is none."""
    if command == "evaluate":
        return MEANINGS_OF_EVALUATE[key]
    for start, other in _SAME:
        if key.startswith(start) and other + key.removeprefix(start) in MEANINGS:
            return MEANINGS[other + key.removeprefix(start)]
    return MEANINGS[key]


# Keys that mean the same as others: by the start of their names.
_SAME = (("data.load_discovery.", "data.load."),)
MEANINGS = {
    "name": "运行目录路径的一部分，也是 Weights & Biases 中运行名的一部分",
    "seed": "权重初始化、数据顺序、抽取的描述、增强的随机种子",
    "output": "运行目录建在这里：<output>/<name>/<date>_<time>",
    "folder": "直接指定运行目录",
    "resume": "一个运行目录：按它自己的配置从中断处继续",
    "task": "类别发现；不设时是图文匹配",
    "trainer.epochs": "遍历训练图像的次数",
    "trainer.accumulate": "累积多少批的梯度作为一步",
    "trainer.warmup_epochs": "学习率从 0 升到最高所用的轮数，可以是小数",
    "trainer.final_learning_rate": "结束时的学习率",
    "trainer.rate_changes": "step：每步改变学习率；epoch：一轮之内学习率不变",
    "trainer.clip_gradient_norm": "梯度范数的上限；null：不限",
    "trainer.precision": "auto：在支持的 GPU 上用 bf16；双曲几何始终用 float32",
    "trainer.tf32": "GPU 上编码器的 float32 乘法可以用 TF32；几何运算和相似度从不使用",
    "trainer.ema_decay": "如 0.999：评测并导出权重的滑动平均；0：不用",
    "trainer.compile": "用 torch.compile 编译模型",
    "trainer.evaluate_every": "每隔多少轮验证一次",
    "trainer.monitor": "用来选择模型的验证指标",
    "trainer.log_every": "每隔多少步记录一行",
    "trainer.checkpoint_every": "除每次验证后的检查点外，每隔多少步再存一个；0：不存",
    "evaluation.captions_per_image": "每张图像用多少条描述；null：全部",
    "evaluation.templates": "零样本分类的提示模板；null：data.prompts",
    "evaluation.batch_size": "一次编码多少张图像",
    "evaluation.pointing": "描述提到位置已知的部位时，检验这些词是否看向那里",
    "evaluation.attention_pictures": "结束时为多少条测试描述画注意力图：每个词看向哪里",
    "data.validation_fraction": "每类训练图像中留作验证的比例",
    "data.split_seed": "决定留出哪些图像，对所有训练种子都相同",
    "data.batch_size": "所有进程合计的批大小",
    "data.batch_size_per_gpu": "或每个进程的批大小；设了它，batch_size 就不起作用",
    "data.workers": "每个训练进程用多少个进程读图像",
    "data.on_error": "raise：遇到不能解码的图像就停止；skip：跳过并计数",
    "data.timeout": "等待读图像进程交出一批的秒数；0：一直等",
    "data.maximum_pixels": "更大的图像不解码：文件头可能有误，内存也可能不够",
    "data.crop_scale": "训练裁剪占图像面积的比例",
    "data.flip": "把一半训练图像左右翻转",
    "data.squash": "true：评测时把两边都缩放到输入边长，不裁掉任何部分",
    "data.image_augmentation": "图像增强；null：只用 crop_scale 和 flip",
    "data.image_augmentation.interpolation": "训练图像缩放的插值方法；评测总用 bicubic",
    "data.image_augmentation.picks": "对每张图像从 pool 中有放回地抽取多少个操作",
    "data.image_augmentation.pool": "可供抽取的操作",
    "data.text_augmentation": "文本增强；null：描述保持原样",
    "data.text_augmentation.word_deletion": "每个词被删去的概率",
    "data.text_augmentation.back_translation": "有回译时，用回译代替原描述的概率",
    "data.monitor": "用来选择模型的验证指标",
    "data.root": "数据所在的文件夹",
    "data.captions": "text_c10 文件夹；null：在 root 里面或旁边",
    "data.old_classes": "类别发现中旧类的文件夹名；null：按 Semantic Shift Benchmark 的划分",
    "data.labelled_fraction": "旧类训练图像中带标签的比例，由 split_seed 抽取；SimGCD 发布的代码相当于种子 0",
    "data.download": "true：root 中没有数据时下载",
    "data.load._target_": "读取数据的函数",
    "data.load.root": "数据所在的文件夹",
    "data.load.captions": "描述所在的文件夹",
    "data.load.validation_fraction": "训练图像中留作验证的比例",
    "data.load.seed": "决定哪些图像用于验证；对合成数据还决定画什么",
    "data.load.layout": "标注是哪个数据集的格式",
    "data.load.images_per_species": "合成鸟每个物种的图像数",
    "data.load.image_size": "合成图像的边长",
    "data.load.identities": "合成行人的人数",
    "data.load.images_per_identity": "每个合成行人的图像数",
    "data.load.download": "root 中没有数据时下载",
    "data.load.old_classes": "旧类的文件夹名",
    "data.load.labelled_fraction": "旧类训练图像中带标签的比例",
    "data.load.split_seed": "决定哪些图像带标签",
    "encoder.image._target_": "构造图像编码器的函数",
    "encoder.image.name": "timm 或 open_clip 中网络的名称",
    "encoder.image.image_size": "编码器输入的正方形边长",
    "encoder.image.pretrained": "预训练权重；open_clip 的标签（如 openai）也决定是否使用 QuickGELU",
    "encoder.image.weights": "本地权重文件，代替下载",
    "encoder.image.arguments": "timm.create_model 的参数",
    "encoder.image.arguments.*": "timm.create_model 的一个参数",
    "encoder.image.pixel_mean": "像素均值；null：权重自带的",
    "encoder.image.pixel_std": "像素标准差；null：权重自带的",
    "encoder.image.norm_epsilon": "所有层归一化的 ε；null：timm 的值",
    "encoder.image.fixed_positions": "用固定的正弦余弦位置编码代替可学习的",
    "encoder.image.train_last_blocks": "只训练最后多少个 Transformer 层；0：冻结整个编码器；null：全部训练",
    "encoder.image.train_final_layers": "是否连同最后的归一化层一起训练；发布的代码只训练名称含 block 的参数",
    "encoder.image.freeze_batch_norm": "固定批归一化的增益、偏置和统计量",
    "encoder.image.gradient_checkpointing": "多做一次前向计算以节省显存",
    "encoder.image.patch_level": "图像块取自哪一层特征图；null：最后一层",
    "encoder.image.random_weights": "不加载权重，无论其他键怎么写",
    "encoder.text._target_": "构造文本编码器的函数",
    "encoder.text.name": "open_clip 中网络的名称",
    "encoder.text.pretrained": "与 encoder.image.pretrained 相同",
    "encoder.text.weights": "与 encoder.image.weights 相同",
    "encoder.text.architecture": "层数、宽度和注意力头数",
    "encoder.text.context_length": "描述的最大长度，含首尾两个特殊词元",
    "encoder.text.dropout": "训练时随机置 0 的注意力权重的比例",
    "encoder.text.gradient_checkpointing": "多做一次前向计算以节省显存",
    "encoder.text.random_weights": "不加载权重，无论其他键怎么写",
    "encoder.embedding_dimension": "图像与描述共同空间的维数",
    "encoder.initial_radius": "CLIP 的特征很长且长短不一：先看一批特征，再设定 MERU 的 α，使点平均落在这个半径；null：按从零训练设定",
    "encoder.init": "整个模型的公开检查点，如 meru_vit_s.pth",
    "model._target_": "模型的类",
    "model.embedding_dimension": "图像与描述共同空间的维数",
    "model.logit_scale": "初始温度的倒数；null：编码器来自 CLIP 权重时用 CLIP 的值，否则为 1 / 0.07",
    "model.maximum_logit_scale": "温度倒数的上限",
    "model.local_logit_scale": "词与图像块的温度倒数的初值",
    "model.curvature": "MERU：初始的 c，空间曲率为 −c；HypGCD：庞加莱球的 c，固定不变",
    "model.learn_curvature": "曲率是否可学习",
    "model.norm_exponent": "p：特征范数取 p 次幂后进入空间；1：即 MERU；0：所有点到原点的距离相同",
    "model.initial_radius": "设定 α 的初值，使点平均落在这个半径；null：α 为 1 / sqrt(D)",
    "model.projection_width": "投影头隐藏层的宽度",
    "model.projection_dimension": "用于对比的特征的维数",
    "model.temperature": "分类器的温度",
    "model.clip": "特征进入庞加莱球之前，长度超过此值的缩短到此值",
    "data.prompts": "零样本分类的提示语，{} 处放类别名；null：没有",
    "data.whole": "描述中称呼图像主体的名词",
    "data.part_words": "部位和称呼它的词；null：描述中不认部位",
    "data.part_words.*": "称呼该部位的词",
    "data.families": "类别怎样归为科：last_word：名称的最后一个词；file：由数据给出；null：不归类",
    "model.space": "hyperboloid：双曲面；euclidean：欧氏空间；sphere：单位球面，按余弦比较（GAHR 去掉 HRL）",
    "model.merge": "每行每列各把多少个图像块平均成一个",
    "model.top": "每张图像中被关注最多的多少个图像块进入 part_entailment",
    "model.grid": "每行的格数",
    "model.activation": "注意力的激活函数",
    "model.word_window": "注意力中的一个词读过多少个词元；null：此前的整条描述，与 GAHR 相同",
    "model.class_token": "编码器有类别标记时，让它与图像块一起参与注意力",
    "parts.crops": "裁剪取自主体的边界框（box），或可见部位周围的窗口（parts）",
    "parts.window": "该窗口的边长占边界框长边的比例",
    "loss.contrastive.weight": "图像与描述对比损失的权重",
    "loss.contrastive.positives": "一批之中哪些描述是图像的正样本：自己的一条（pair）、同一图像的（image）、同一类别的（class）",
    "loss.semantic_margin.weight": "SMS 的权重",
    "loss.semantic_margin.margin": "间隔 λ；0：带软标签的普通对比（TBPS-CLIP 的 N-ITC）",
    "loss.semantic_margin.margin_source": "intra：按论文；cross：按发布的代码，只相当于另一个温度",
    "loss.semantic_margin.soft_label": "α：目标中模型自身判断所占的比例",
    "loss.semantic_margin.soft_label_epochs": "α 从 0 增长到设定值所用的轮数；这里一轮对每张图像取一条描述，发布的代码取全部",
    "loss.category.weight": "HCL 的权重",
    "loss.category.temperature": "类别概率的温度",
    "loss.category.smoothing": "目标中分给其他类别的比例",
    "loss.category.riemannian": "true：用黎曼梯度，与发布的代码一致，论文的权重就是按此设定的",
    "loss.hierarchy.weight": "LHL 的权重",
    "loss.hierarchy.neighbours": "一个点在一批视图中取多少个近邻，包括它自己",
    "loss.hierarchy.triplets": "每个点抽取的三元组数",
    "loss.hierarchy.margin": "间隔 δ",
    "loss.hierarchy.ancestors": "祖先的候选：batch：一批中的点；midpoint：爱因斯坦中点；proxies：可学习的点（HIER）",
    "loss.hierarchy.proxies": "ancestors=proxies 时可学习的点数",
    "loss.hierarchy.temperature": "选择祖先时的温度",
    "loss.hierarchy.exclude_members": "true：三元组的三个点不能做自己的祖先",
    "loss.entailment.weight": "让图像落入其描述的蕴含锥的损失的权重",
    "loss.entailment.minimum_radius": "K：锥的半张角的正弦为 2K/(√c‖x‖)",
    "loss.entailment.apex_floor": "F > 1：离原点不到 2KF/√c 的锥顶被向外推；0：论文的损失",
    "loss.entailment.across_aperture": "η：文本的锥包含其图像时的张角",
    "loss.entailment.within_aperture": "η：局部的锥包含其整体时的张角；在原点附近锥会占半个空间，见 apex_floor",
    "loss.reverse_contrastive.weight": "R-ITC 的权重",
    "loss.reverse_contrastive.smoothing": "ε：目标的平滑量",
    "loss.cyclic.weight": "C-ITC 的权重",
    "loss.cyclic.within": "λ1：图像—图像与文本—文本的相似度之差的权重",
    "loss.cyclic.across": "λ2：图像—文本与文本—图像的相似度之差的权重，不含时间分量",
    "loss.word_grounding.weight": "词在一批图像中找到自己的图像的损失的权重",
    "loss.word_grounding.exclude_class": "同类的其他图像不算作负样本",
    "loss.word_contrast.weight": "BAI 词一侧损失的权重：词从图像块汇集的内容应能认出这个词",
    "loss.word_contrast.scope": "负样本：同一描述中的其他词（caption，按论文），或整批的词（batch，按发布的代码）",
    "loss.word_contrast.exclude_class": "scope=batch 时，同类的其他描述中的词不算作负样本",
    "loss.patch_agreement.weight": "BAI 图像块一侧损失的权重：图像块与它从词汇集的内容互相预测",
    "loss.part_entailment.weight": "让图像落入其局部的蕴含锥的损失的权重",
    "loss.part_entailment.apex_floor": "同 entailment.apex_floor；0：论文的锥，格子缩到原点即可满足",
    "loss.late_interaction.weight": "按每个词到最近图像块的平均距离做对比的损失的权重",
    "loss.supervised_contrastive.weight": "带标签图像的对比损失的权重",
    "loss.supervised_contrastive.temperature": "该对比的温度",
    "loss.supervised_classification.weight": "带标签图像的交叉熵的权重",
    "loss.view_contrastive.weight": "同一图像两个视图的对比损失的权重",
    "loss.view_contrastive.temperature": "该对比的温度",
    "loss.self_distillation.weight": "以一个视图的预测作为另一个视图的目标的损失的权重",
    "loss.self_distillation.entropy": "ε：平均预测的熵的权重",
    "loss.self_distillation.start": "教师的初始温度",
    "loss.self_distillation.end": "教师的最终温度",
    "loss.self_distillation.epochs": "教师温度从初始变到最终所用的轮数，每轮之内不变",
    "discovery.num_classes": "类别数；null：与数据相同；estimate：用半监督 k-means 估计",
    "discovery.asked_num_classes": "出现在运行目录中：原来设定的 num_classes",
    "discovery.sampler": "weighted：一批中一半带标签；uniform：均匀抽取；neighbours：HypGCD 的近邻批次",
    "discovery.neighbours": "一批中每张图像的近邻数，包括它自己",
    "discovery.cached_views": "每张图像缓存多少个视图在冻结块之后的特征，并用它们训练：更快，变化更少；0：不缓存",
    "discovery.maximum_classes": "estimate 时类别数的上限；null：旧类数的三倍",
    "optim.optimizer._target_": "torch.optim 中的类",
    "optim.optimizer._partial_": "true：参数稍后传入",
    "optim.optimizer.betas": "Adam 滑动平均的衰减率",
    "optim.optimizer.eps": "加在 Adam 分母上的数",
    "optim.optimizer.momentum": "SGD 和 RMSprop 的动量",
    "optim.optimizer.dampening": "SGD 动量的阻尼",
    "optim.optimizer.nesterov": "使用 Nesterov 动量",
    "optim.optimizer.alpha": "RMSprop 和 ASGD 的 alpha",
    "optim.optimizer.rho": "Adadelta 的 rho",
    "optim.optimizer.fused": "所有参数用一个核函数更新",
    "optim.optimizer.foreach": "所有参数在一次调用中更新",
    "optim.optimizer.amsgrad": "使用 Adam 的 AMSGrad 变体",
    "optim.optimizer.maximize": "损失只能最小化",
    "optim.optimizer.*": "该类的任何其他参数",
    "optim.learning_rate": "最高学习率",
    "optim.batch_of_rate": "learning_rate 对应的每步图像数，学习率按比例随批大小变化；null：直接使用",
    "optim.weight_decay": "矩阵的权重衰减；增益、偏置和可学习的标量不衰减",
    "optim.multipliers.*": "该模块或参数的学习率倍数；scalars 指所有可学习的标量",
    "logger._target_": "除 metrics.jsonl 外，指标还记录到哪里",
    "logger.project": "Weights & Biases 的项目",
    "logger.entity": "Weights & Biases 的用户或团队",
    "logger.mode": "auto：按 WANDB_MODE；未设时，已登录则 online，否则 offline",
    "logger.tags": "Weights & Biases 中运行的标签",
    "logger.group": "Weights & Biases 中运行所属的组",
}
MEANINGS_OF_EVALUATE = {
    "run": "运行目录",
    "split": "用哪部分图像；null：test，对类别发现的运行为 test 和 train",
    "suite": "robustness：用退化的图像和缩短的描述，代替通常的指标",
    "root": "数据所在的文件夹，如果与训练时不同",
    "captions_per_image": "每张图像用多少条描述；null：全部；1：以每张图像的第一条描述作为查询",
    "templates": "零样本分类的提示模板，用 {} 代替类别名；null：运行的 data.prompts",
    "batch_size": "一次编码多少张图像",
    "pointing": "检验部位的词是否看向其关键点",
    "workers": "读图像的进程数",
    "output": "保存指标的 JSON 文件；null：只打印，套件的结果存入运行目录",
    "data": "本次评测中，运行的 data 小节的其他键",
}
