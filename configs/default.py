"""Every key of a config with its default: a tiny attention model on the embedded `context` data set.

    python train.py

Float32, 2 CPU cores: val mIoU 0.977 (mean of the seeds 0, 1, 2) after the 400 steps, in one minute. With
--config.model.attention.name=none it is 0.366.
"""

from ml_collections import ConfigDict

from attnseg_jax.models.build import default_config as model_defaults


def get_config() -> ConfigDict:
    """Returns the default config; other configs are differences from it."""
    config = ConfigDict()

    # Seed of initialisation, dropout, data order and augmentation.
    config.seed = 0
    # How one step uses all devices: 'pmap' (replicas), 'mesh' (one program, sharded batch), or 'fsdp', a mesh whose
    # devices share parameters, moments and averages among them.
    config.parallel = "pmap"
    # How the state lies on the devices: 'replicated' (whole on each), or a rule of yours, 'my_package.my_file:my_rule',
    # which splits its arrays over them; that needs 'mesh'.
    config.sharding = "replicated"
    # What of the backbone is computed again in the backward pass, to save memory: 'none', 'blocks' (all inside its
    # blocks; what comes out of each is kept) or 'full'.
    config.remat = "none"
    # Compute type: 'float32' or 'bfloat16'. Parameters, normalisation, softmax and loss stay float32.
    config.dtype = "float32"
    # Join the other processes of a pod before anything else (jax.distributed.initialize).
    config.distributed = False

    # 'wandb' or 'mlflow', which send logs and pictures there, and hooks of yours, such as 'my_package.my_file:MyHook':
    # subclasses of attnseg_jax.train.hooks.Hook. Logs, pictures and profiler traces are always there.
    config.hooks = ()

    # Weights of the whole model to start from: a file (.safetensors, .npz, .pth), the workdir of a run,
    # hf://owner/name[@revision]/file, or a name of attnseg_jax/weights/catalogue.py; '' is off. A classifier of another
    # number of classes stays at its initialisation, as does an attention mechanism where the weights come without any.
    # A checkpoint in the run's workdir takes precedence.
    config.init_from = ""

    config.data = data = ConfigDict()
    # Where images and masks come from: 'folder' (files), 'tfds' (a TensorFlow Datasets builder), or a class from
    # outside the package, 'my_package.my_file:MySource'.
    data.source = "tfds"
    # Known data set that supplies class names, palette and label table: 'context', 'ade20k', 'camvid', 'camvid32',
    # 'cityscapes', 'cityscapes_trainids', 'coco_stuff164k', 'coco_stuff10k', 'drive', 'loveda', 'oxford_iiit_pet',
    # 'pascal_context59', 'pascal_context60', 'voc'; '' takes `classes`, `palette`, `ids` and `colors` below.
    data.name = "context"
    # TFDS builder, such as 'cityscapes' or 'my_set/config:1.0.0'; '' takes the known data set's.
    data.tfds_name = ""
    # What may be at a pixel: 'multiclass', one of the classes (softmax); 'binary', one of two, told by a single sigmoid
    # output, where `classes` may name the second alone; 'multilabel', any of the classes, each with a sigmoid and a
    # mask of its own, 0 or 1: a file for each class ('lab/{stem}_{class}.png' in `masks`) or a band for each.
    data.mode = "multiclass"
    # Of 'multilabel', a class that has no file for an image: 'error', 'absent' (it is nowhere), 'ignored' (not known).
    data.missing = "error"
    # Root folder of a 'folder' source, which it means where neither source nor data set is given on the command line;
    # data_dir of TFDS ('' is the default of TFDS).
    data.dir = ""
    # Layout of a 'folder' source: 'camvid' (train/ trainannot/), 'images_masks' (images/train masks/train, train/images
    # train/masks, or images masks), 'cityscapes', 'voc', 'ade20k', 'flat' (x.jpg x.png, or x.png x_mask.png), 'objects'
    # (a folder for each image, with a mask for each of its objects), 'labelme', 'coco' and 'coco_panoptic' (JSON files
    # of shapes), 'parquet' (files of Hugging Face `datasets`), 'templates', 'stacks' (of TIFF files whose pages are
    # pictures) and 'lists' (the keys below); 'auto' takes the first that fits. attnseg-doctor tells which that is.
    data.layout = "auto"
    # Names of images and masks below `dir`, such as 'img/{split}/*.tif' and 'lab/{split}/{stem}_mask.png'. A name in
    # braces is any text, the same in both; {stem} tells images apart; ** is any number of folders, {dir} in the masks.
    # Of 'parquet', the columns of images and masks, where their names do not tell.
    data.images = ""
    data.masks = ""
    # Channels of the images, where they are not 8-bit RGB: any number, from PNG, TIFF and NumPy files (.npy) of 8 bits,
    # 16 bits or floats, as they are; `mean` and `std` then need a value for each. 0 reads 8-bit RGB.
    data.channels = 0
    # Where an image is several files, the names for which {band} stands in `images`, such as ('B02', 'B03', 'B08') of
    # 'img/{stem}_{band}.tif'; their channels follow each other.
    data.bands = ()
    # Of such images, the channels that pictures show as red, green and blue, or the one shown in gray; () is the first.
    data.show = ()
    # Pictures of more pixels are refused before they are decoded, unless they are TIFF or NumPy files of which training
    # reads the crops alone.
    data.max_pixels = 178_956_970
    # Text or CSV files below `dir` with an image, its mask and perhaps a split in each line, such as '{split}.txt';
    # with `images` and `masks` their stems.
    data.lists = ""
    # Where a folder has no validation split: ('hash', 0.2) holds a fifth of `train_split` out as `eval_split`, by a
    # hash of each name, so that no picture changes sides when others come. A third value, such as '(.*)_', is a pattern
    # for what names of one group (a video, a patient) share; a group stays together. () takes the splits as they are.
    data.split = ()
    # Files that are left out, by their paths below `dir` or by patterns such as 'images/train/old_*'.
    data.leave_out = ()
    # 'exact' refuses a mask with a value that is not in the table; 'nearest' takes every value, or colour, for the
    # nearest one in it, for masks that were saved as JPEG or resized with smoothing.
    data.mask_values = "exact"
    # 'exact' refuses a mask of another size than its image; 'resized' enlarges or reduces it, by the nearest pixels,
    # where the shape is the same. Of a 'folder' source, but not of what is read by windows.
    data.mask_sizes = "exact"
    # Names of the splits: to train on, and to evaluate during and after training.
    data.train_split = "train"
    data.eval_split = "val"
    # Class names, in the order of the train ids; () takes those of `name`, or of classes.txt in `dir`, one a line.
    data.classes = ()
    # One (red, green, blue) for each class, for pictures.
    data.palette = ()
    # Where masks are drawn from annotations (layouts 'labelme', 'coco', 'coco_panoptic'): their labels in the order of
    # the raw ids; 'background' is what no shape covers. () takes the classes.
    data.labels = ()
    # Label table: position is the raw id in the mask, value the train id, 255 is ignored; or pairs of a raw id and its
    # train id, such as ((0, 0), (255, 1)). () keeps the raw ids.
    data.ids = ()
    # Raw ids that have no class, where `ids` does not say otherwise; () where every pixel has one.
    data.ignore = (255,)
    # The colour of each raw id, where masks are pictures (RGB, palette or gray); () takes gray values and indices.
    data.colors = ()
    # Factor by which images and masks are resized when they are read, for training and evaluation alike.
    data.resolution = 1.0
    # Images are resized to a shorter side of so many pixels: in training by 'scale_crop', masks with them, before the
    # random scale; in evaluation and prediction for the model alone, whose logits are resized to the masks. 0: as read.
    data.shorter_side = 0
    # By which images are resized there: 'bilinear' or 'bicubic'.
    data.interpolation = "bilinear"
    # What is done to a training sample, in this order; a function from outside the package is named
    # 'my_package.my_file:my_transform'. The next keys are the options of these four.
    data.transforms = ("scale_crop", "flip", "colour_jitter", "normalise_pad")
    # Training crop: height, width.
    data.crop = (64, 96)
    # Range of the random scale before the crop.
    data.scale = (1.0, 1.0)
    # A crop is drawn again while one class has a larger share of its valid pixels than this.
    data.max_class_share = 0.99
    data.foreground = ConfigDict()
    # Probability with which a crop must show one of these classes, by their names; () is all but the first.
    data.foreground.probability = 0.0
    data.foreground.classes = ()
    # Probability of a horizontal flip.
    data.flip = 0.5
    # Strengths of the colour jitter; 0 is off. Brightness, contrast and saturation are factors in 1 +- strength;
    # hue is a shift in turns.
    data.brightness = 0.1
    data.contrast = 0.1
    data.saturation = 0.0
    data.hue = 0.0
    # Options of further transforms. Probability of 'vertical_flip'; 'right_angle', before 'scale_crop', has none.
    data.vertical_flip = 0.5
    data.affine = ConfigDict()
    # Probability of 'affine', and degrees of rotation and of shear to both sides at most.
    data.affine.probability = 1.0
    data.affine.degrees = 10.0
    data.affine.shear = 0.0
    # Stretched by up to 1 + aspect, shifted by up to a share of height and width.
    data.affine.aspect = 0.0
    data.affine.shift = 0.0
    # 'gamma': powers between 1 / (1 + gamma) and 1 + gamma. 'blur': deviation in pixels at most. 'noise': deviation at
    # most, times `std`. 'jpeg': range of the quality.
    data.gamma = 0.3
    data.blur = 1.5
    data.noise = 0.1
    data.jpeg = (40, 95)
    data.cutout = ConfigDict()
    # Of 'cutout': rectangles, their sides at most, as shares of height and width, and whether they have no label.
    data.cutout.count = 1
    data.cutout.size = 0.3
    data.cutout.ignore = True
    data.copy_paste = ConfigDict()
    # 'copy_paste' lays what another image shows of these classes over an image.
    data.copy_paste.classes = ()
    data.copy_paste.probability = 0.5
    data.class_mix = ConfigDict()
    # Of 'class_mix', which lays half of the classes of another image over one.
    data.class_mix.probability = 0.5
    data.mosaic = ConfigDict()
    # Of 'mosaic', before 'scale_crop', which makes one image of four.
    data.mosaic.probability = 0.5
    data.sampling = ConfigDict()
    # How often images are drawn: one of a class that a share f of the images show (threshold / f) ** power times, where
    # f is below the threshold. 0 draws each once, 0.5 is usual.
    data.sampling.power = 0.0
    data.sampling.threshold = 0.1
    # How often one that shows nothing but the first class is drawn.
    data.sampling.empty = 1.0
    # Normalisation of the channels, on the scale of the files (0..255 where these have 8 bits). () takes that
    # of the weights that the run starts from, where the catalogue or the layout of their file tells it, or ImageNet's:
    # (123.675, 116.28, 103.53) and (58.395, 57.12, 57.375).
    data.mean = ()
    data.std = ()
    # Order in which the model gets the channels: 'rgb' or 'bgr'; mean and deviation are of red, green and blue always.
    # '' takes that of the weights, or 'rgb'.
    data.channel_order = ""
    # Reading threads.
    data.threads = 4
    # Read every image and mask once before a new run starts, so that a bad file is named at once. Without it, a later
    # part of the run knows the files by their sizes alone when it looks for what has changed.
    data.check = True
    # Options of sources and transforms from outside the package, under whatever keys these read.
    data.custom = ConfigDict()
    data.regions = ConfigDict()
    # How each image is divided into regions, for models that classify these: 'none', 'felzenszwalb' or 'slic', both
    # of scikit-image. The defaults suit street scenes of 180 x 240 pixels.
    data.regions.method = "none"
    # Regions of an image, over all levels; what is missing is padded, those beyond it, fine and small, are dropped.
    data.regions.count = 128
    # Of these, how many of a training image are shown, drawn anew each time; 0 is all. Pixels of none have no label.
    data.regions.sample = 0
    # Folder where the regions of images are kept; '' is attnseg_jax/regions in the user's cache (~/.cache).
    data.regions.cache = ""
    data.regions.felzenszwalb = ConfigDict()
    # One level for each, from fine to coarse: the larger, the more regions are merged.
    data.regions.felzenszwalb.scales = (100.0, 400.0)
    # Pixels of the smallest region; width of the smoothing before.
    data.regions.felzenszwalb.min_size = 50
    data.regions.felzenszwalb.sigma = 0.5
    data.regions.slic = ConfigDict()
    # One level for each, from fine to coarse: how many regions, about.
    data.regions.slic.segments = (96, 24)
    # Weight of nearness in space against that in colour.
    data.regions.slic.compactness = 30.0

    # Model: kind, names and options of its parts; `python train.py --help=model` lists them.
    config.model = ConfigDict(model_defaults())
    config.model.attention.name = "self"
    # Weights of the backbone to start from, named as in `init_from`, which takes precedence; '' is off.
    config.model.backbone.pretrained = ""
    # What of the backbone stays as it is: 'none'; 'bn', its batch normalisation (statistics, scales, biases); 'all'.
    config.model.backbone.freeze = "none"
    # An auxiliary FCN head on the map of nominal stride `aux_stride`, trained with `loss.aux_weight`.
    config.model.decoder.aux = False
    config.model.decoder.aux_stride = 16
    # Whether logits are upsampled to the image with aligned corners, as models of segmentation_models_pytorch,
    # hszhao/semseg, EMANet and OCRNet do with their weights, or with half-pixel centres.
    config.model.decoder.align_corners = False
    # 'all' keeps the decoder as it is; with the backbone's 'all' the attention mechanism alone is trained. Or 'none'.
    config.model.decoder.freeze = "none"
    # Channels of its convolutions.
    config.model.decoder.fcn.channels = 64

    config.objective = objective = ConfigDict()
    # What a step minimises: 'supervised', the losses below on every labelled pixel, or an objective of yours,
    # 'my_package.my_file:MyObjective', whose options stand in `custom`.
    objective.name = "supervised"
    objective.custom = ConfigDict()

    config.loss = loss = ConfigDict()
    # What is minimised, over the pixels that are not ignored: 'cross_entropy', 'ohem', 'focal', 'dice', 'jaccard',
    # 'tversky', 'lovasz', 'boundary', or a sum such as 'cross_entropy+dice'. Auxiliary heads have the same. A loss of
    # yours is 'my_package.my_file:my_loss', its options stand in `custom`. Or 'mask_classification' alone, for decoders
    # with queries: each is matched with a segment of the image, the pixels of one class.
    loss.name = "cross_entropy"
    # Factors in that sum, one for each name; () is 1 for each.
    loss.scales = ()
    # Class weights: 'none', 'given' (in `weights`) or 'median_frequency' (counted on the training split).
    # 'cross_entropy' and 'ohem' weigh pixels by their label, 'focal' its mean over the classes; the others, which
    # weigh the classes alike whatever their pixels, take none. The presence loss (see below) weighs classes. Of
    # 'multilabel' a weight is that of pixels where the class is there, beside 1 where it is not.
    loss.class_weights = "median_frequency"
    loss.weights = ()
    # The median-frequency weights are raised to this power: 0.5 takes their square roots.
    loss.class_weight_power = 1.0
    # For 'cross_entropy' and 'ohem'.
    loss.label_smoothing = 0.0
    # Weight of each auxiliary head's loss.
    loss.aux_weight = 0.4
    # Weight of the loss of every output that tells which classes an image shows (attention 'encnet').
    loss.presence_weight = 0.2
    # Of an output that says where classes meet (decoder `ddr` with `boundary`): weights of its binary cross-entropy,
    # and of the losses above where it says so with more than this probability; pixels on both sides of such a border.
    loss.edge_weight = 20.0
    loss.edge_aware_weight = 1.0
    loss.edge_confidence = 0.8
    loss.edge_width = 2
    # Options of losses from outside the package, under whatever keys these read.
    loss.custom = ConfigDict()
    loss.ohem = ConfigDict()
    # Pixels count whose class has less probability than this, and at least this share of all, the hardest.
    loss.ohem.threshold = 0.7
    loss.ohem.min_kept = 0.1
    loss.focal = ConfigDict()
    # Pixels count by their error to this power; 0 is binary cross-entropy.
    loss.focal.gamma = 2.0
    # Weight of a class at its own pixels, 1 - alpha elsewhere; below 0 both are 1.
    loss.focal.alpha = -1.0
    # Divide by the sum of those powers instead of the number of pixels.
    loss.focal.normalized = False
    loss.dice = ConfigDict()
    # Pixels added to numerator and denominator of the overlap; -log(overlap) instead of 1 - overlap; the train ids to
    # average over, such as all but the background's (() is all).
    loss.dice.smooth = 0.0
    loss.dice.log = False
    loss.dice.classes = ()
    loss.jaccard = ConfigDict()
    # As those of dice.
    loss.jaccard.smooth = 0.0
    loss.jaccard.log = False
    loss.jaccard.classes = ()
    loss.tversky = ConfigDict()
    # As those of dice.
    loss.tversky.smooth = 0.0
    loss.tversky.log = False
    loss.tversky.classes = ()
    # Weights of false positives and of false negatives.
    loss.tversky.alpha = 0.3
    loss.tversky.beta = 0.7
    # Exponent of the loss.
    loss.tversky.gamma = 1.0
    loss.boundary = ConfigDict()
    # Pixels on both sides that make a boundary, where contours are ignored more than those; pixels it may be off.
    loss.boundary.width = 1
    loss.boundary.tolerance = 2

    loss.mask_classification = ConfigDict()
    # Weights of the classes' cross-entropy, and of the binary cross-entropy and the Dice loss of masks, in the loss and
    # in the matching.
    loss.mask_classification.class_weight = 2.0
    loss.mask_classification.mask_weight = 5.0
    loss.mask_classification.dice_weight = 5.0
    # Weight of queries that should be no object among those that should be one; of the losses of earlier layers.
    loss.mask_classification.no_object = 0.1
    loss.mask_classification.layer_weight = 1.0
    # Points at which each mask is compared, at most as many as the crop has pixels; this share of them is chosen, where
    # the mask is least decided, among `oversample` times as many as there are points.
    loss.mask_classification.points = 12544
    loss.mask_classification.oversample = 3.0
    loss.mask_classification.importance = 0.75
    # Segments of an image, the largest; 0 is one for each class. Fewer save memory where there are many classes.
    loss.mask_classification.segments = 0
    # The focal loss instead of the binary cross-entropy.
    loss.mask_classification.focal = False

    config.optimizer = optimizer = ConfigDict()
    # 'adamw' or 'sgd' (momentum; weight decay as L2 in the gradient).
    optimizer.name = "adamw"
    # Of the peak, after the warm-up.
    optimizer.learning_rate = 3e-3
    # Schedule after the linear warm-up: 'poly', 'cosine' or 'constant'.
    optimizer.schedule = "poly"
    # Exponent of 'poly'.
    optimizer.power = 0.9
    # Steps of the linear warm-up.
    optimizer.warmup_steps = 50
    # New parts first: the backbone stands still for those steps, and then has a warm-up of so many of its own; 0: all
    # warm up together.
    optimizer.backbone_warmup_steps = 0
    # Learning rate at the end, as a factor of the peak (cosine and poly).
    optimizer.end_factor = 0.0
    # Weight decay; not applied to biases, normalisation, position tables and tokens.
    optimizer.weight_decay = 0.01
    # Momentum of 'sgd', and whether it is Nesterov's.
    optimizer.momentum = 0.9
    optimizer.nesterov = False
    # Decay of the means of gradients and of their squares, and what is added to the divisor, of 'adamw'.
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-8
    # Largest global norm of the gradient; 0 is off.
    optimizer.clip_norm = 1.0
    # Learning rate of each layer of the backbone as a factor of that of the next, such as 0.75; the head and the last
    # normalisation have the full one. 1 is off. For transformers (vit_*, dinov2_*, dinov3_*, swin_*) and convnext_*.
    optimizer.layer_decay = 1.0
    # 'regex=factor' on parameter paths; the first match counts, such as ('backbone/.*=0.1',).
    optimizer.lr_multipliers = ()
    # Decay of the exponential moving average of the parameters that evaluation then uses; 0 is off.
    optimizer.ema_decay = 0.0

    config.train = train = ConfigDict()
    # Optimizer steps of the whole run.
    train.steps = 400
    # Images of one optimizer step over all devices and processes.
    train.batch_size = 16
    # Micro-batches one step is split into, to save memory.
    train.accumulate = 1
    # Steps between log lines, and between evaluations (each saves a checkpoint).
    train.log_every = 20
    train.eval_every = 100
    # Checkpoints kept by validation mIoU, beside the latest.
    train.keep = 1
    # Evaluations in a row without a higher validation mIoU after which the training ends before its last step; 0: none.
    train.patience = 0
    # Minutes after which a training stops as if by SIGTERM: saved, and the same command continues; 0: no limit.
    train.max_minutes = 0.0
    # Steps of which a profiler trace is kept in WORKDIR/profile, such as (20,).
    train.profile = ()

    config.eval = evaluation = ConfigDict()
    # Images of one evaluation step over all devices and processes.
    evaluation.batch_size = 16
    # Images are padded at the bottom and right to multiples of this, and what the model makes of them is cut: 0 takes
    # the least with which the model's maps fit the images, to which training crops are padded too. 1 pads nothing: maps
    # are then shifted by up to their stride. A data set of many sizes, each of which is compiled for, wants 64 or so.
    evaluation.size_multiple = 0
    # With what: the 'mean' colour, or 'reflect' for the mirror image about the last pixel.
    evaluation.padding = "mean"
    # 'whole' images, or 'slide': windows (height, width), one every `stride` pixels, averaged where they overlap, with
    # 'uniform' weights or 'gaussian' ones, which trust the middle of a window most. () is the training crop and two
    # thirds of the window.
    evaluation.mode = "whole"
    evaluation.window = ()
    evaluation.stride = ()
    evaluation.blend = "uniform"
    # Windows that are computed at once, at most; 0 are 8 a device, on a CPU as many as have 65,536 pixels.
    evaluation.windows = 0
    # Probabilities are averaged over images resized by these factors, and over their mirror images too.
    evaluation.scales = (1.0,)
    evaluation.flip = False
    # Probability from which on a class is predicted: of 'multilabel' each, of two classes the second. Of more classes
    # the most probable one is.
    evaluation.threshold = 0.5
    # Names of classes that no mean over classes counts, such as ('background',): mIoU, mean Dice, class accuracy. They
    # are trained and listed all the same.
    evaluation.ignore_classes = ()
    # Validation images drawn at each evaluation: the same ones every time, and those with the lowest mIoU.
    evaluation.samples = 4
    evaluation.worst = 2

    return config.lock()
